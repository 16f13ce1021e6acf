"""A causal 3D convolutional VAE.

Its outline is that of the Wan 2.1 VAE (causal convolutions, RMS normalisation over channels, whitened latents); its
front end folds blocks of pixels into channels, so that little is computed at full resolution.

Letters: B clips, C channels, T H W frames, rows, columns in pixels, t h w in latents.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from kinema_core import VideoVAE
from torch import Tensor, nn

from kinema_vae.layers import (
    CausalConv3d,
    CausalSequence,
    NormAct,
    Past,
    ResidualBlock,
    conv_shuffle,
    unshuffle_conv,
)

#: Keyword arguments of `Causal3D`: `demo` trains in minutes on a CPU (0.5 M parameters, one latent cell a 4 x 4 x 4
#: block); `stride_4_8_8` has the proportions of the large open models' VAEs.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "demo": {
            "latent_channels": 12,
            "unshuffle": (4, 4, 4),
            "strides": (),
            "widths": (64,),
            "num_blocks": 1,
        },
        "stride_4_8_8": {
            "latent_channels": 16,
            "unshuffle": (1, 2, 2),
            "strides": ((2, 2, 2), (2, 2, 2)),
            "widths": (96, 192, 384),
            "num_blocks": 2,
        },
    }
)


class Causal3D(VideoVAE):
    """Compresses 1 + st n frames into 1 + n latent frames, each a function of its own and earlier frames only.

    The first latent frame codes the first frame alone, so an image is a video of one frame. The defaults are
    `PRESETS["demo"]`.

    Args:
        latent_channels: C of the latents.
        unshuffle: (frames, rows, columns) of the block of pixels that is folded into channels first.
        strides: (time, rows, columns) by which the grid is coarsened from each level to the next; one less than
            `widths`. With `unshuffle` their product is the stride of the whole.
        widths: channels at each level, finest first.
        num_blocks: residual blocks a level.

    Raises:
        ValueError: `strides` and `widths` do not fit, or a number is below 1.
    """

    streams = True

    def __init__(
        self,
        *,
        latent_channels: int = 12,
        unshuffle: Sequence[int] = (4, 4, 4),
        strides: Sequence[Sequence[int]] = (),
        widths: Sequence[int] = (64,),
        num_blocks: int = 1,
    ) -> None:
        super().__init__()
        front, steps = _triple(unshuffle), [_triple(stride) for stride in strides]
        if len(steps) != len(widths) - 1:
            raise ValueError(
                f"{len(widths)} widths need {len(widths) - 1} strides between them, not {len(steps)}: "
                f"widths {list(widths)}, strides {[list(step) for step in steps]}"
            )
        if min(latent_channels, num_blocks, *widths) < 1:
            raise ValueError(
                f"latent_channels {latent_channels}, num_blocks {num_blocks} and widths {list(widths)} start at 1"
            )
        self.latent_channels = latent_channels
        st, sh, sw = (prod(factors) for factors in zip(front, *steps, strict=True))
        self.stride = (st, sh, sw)
        self.encoder = _encoder(latent_channels, front, steps, widths, num_blocks)
        self.decoder = _decoder(latent_channels, front, steps, widths, num_blocks)
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, 1 + st n, H, W) in [-1, 1] -> the whitened mean (B, C, 1 + n, h, w)."""
        return self._whiten(self.posterior(video)[0])

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 1 + st n, H, W) -> (mean, log variance) before whitening, each (B, C, 1 + n, h, w)."""
        self.latent_grid(*video.shape[2:])  # raises where the video has no latents
        (mean, log_variance), _ = self._posterior(video, None)
        return mean, log_variance

    def decode(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Whitened (B, C, t, h, w) -> (B, 3, 1 + st (t - 1), H, W), about [-1, 1]; cropped to `size` where given."""
        return next(self.decode_stream([z], size))

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode a video piece by piece, exactly as the whole; what is remembered does not grow with its length.

        Args:
            chunks: (B, 3, 1 + st n, H, W), then (B, 3, st n, H, W) each.

        Raises:
            ValueError: a piece has another number of frames.
        """
        past: Past = None
        for chunk in chunks:
            frames, height, width = chunk.shape[2:]
            # After the first piece the frame that makes 1 + st n is already behind.
            self.latent_grid(frames + (past is not None), height, width)
            (mean, _), past = self._posterior(chunk, past)
            yield self._whiten(mean)

    def decode_stream(self, latents: Iterable[Tensor], size: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """Decode (B, C, n, h, w), any n >= 1 a piece, exactly as the whole: 1 + st (n - 1) frames, then st n each."""
        past: Past = None
        for z in latents:
            video, past = self.decoder(
                z * self._per_channel(self.latent_std) + self._per_channel(self.latent_mean), past
            )
            yield video if size is None else video[..., : size[0], : size[1]]

    def set_whitening(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and standard deviation (C,) of the unwhitened mean over a data set.

        Raises:
            ValueError: another shape, or a deviation that is not positive.
        """
        shape = (self.latent_channels,)
        if mean.shape != shape or std.shape != shape or not (std > 0).all():
            raise ValueError(f"whitening needs a mean and a positive deviation of shape {shape}, not {mean} and {std}")
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the convolution that makes the pixels."""
        return self.decoder[-2].weight

    def _posterior(self, video: Tensor, past: Past) -> tuple[tuple[Tensor, Tensor], Past]:
        _, sh, sw = self.stride
        pad = (0, -video.shape[4] % sw, 0, -video.shape[3] % sh, 0, 0)
        moments, past = self.encoder(nn.functional.pad(video, pad, mode="replicate"), past)
        mean, log_variance = moments.chunk(2, dim=1)
        return (mean, log_variance.clamp(-20, 10)), past

    def _whiten(self, mean: Tensor) -> Tensor:
        return (mean - self._per_channel(self.latent_mean)) / self._per_channel(self.latent_std)

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)


def _encoder(
    latent_channels: int,
    front: tuple[int, int, int],
    steps: Sequence[tuple[int, int, int]],
    widths: Sequence[int],
    num_blocks: int,
) -> CausalSequence:
    """(B, 3, T, H, W) -> mean and log variance in one (B, 2 C, t, h, w)."""
    layers: list[nn.Module] = []
    for before, width, stride in zip((3, *widths), widths, (front, *steps), strict=False):
        layers += unshuffle_conv(before, width, stride)
        layers += [ResidualBlock(width) for _ in range(num_blocks)]
    # Without this normalisation a VAE learns faster, but its latents have heavy tails that a diffusion model learns
    # far more slowly (packages/vae/README.md).
    return CausalSequence([*layers, NormAct(widths[-1]), CausalConv3d(widths[-1], 2 * latent_channels)])


def _decoder(
    latent_channels: int,
    front: tuple[int, int, int],
    steps: Sequence[tuple[int, int, int]],
    widths: Sequence[int],
    num_blocks: int,
) -> CausalSequence:
    """(B, C, t, h, w) -> (B, 3, T, H, W): the encoder's levels in reverse."""
    layers: list[nn.Module] = [CausalConv3d(latent_channels, widths[-1])]
    for width, after, stride in zip(widths[::-1], (*widths[-2::-1], 3), (*steps[::-1], front), strict=True):
        layers += [ResidualBlock(width) for _ in range(num_blocks)]
        layers += [NormAct(width)] if after == 3 else []
        layers += conv_shuffle(width, after, stride)
    return CausalSequence(layers)


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    if len(values) != 3 or min(values) < 1:
        raise ValueError(f"a stride is (time, rows, columns), each at least 1, not {list(values)}")
    time, rows, columns = values
    return time, rows, columns
