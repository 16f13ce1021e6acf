"""A causal 3D convolutional VAE, in our own layout or in that of the Wan VAEs.

Letters: B clips, C channels, T H W frames, rows, columns in pixels, t h w in latents.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from kinema_core import VideoVAE
from torch import Tensor, nn

from kinema_vae.layers import Past
from kinema_vae.presets import PRESETS
from kinema_vae.shuffle_layout import shuffle_decoder, shuffle_encoder
from kinema_vae.wan_layout import wan_decoder, wan_encoder

#: Pixels of a piece of a video that `encode` and `decode` compute at once when no gradients are kept. Pieces give the
#: same result; smaller ones need less memory, and much smaller ones more time.
PIECE_PIXELS = 1 << 18


class Causal3D(VideoVAE):
    """Compresses 1 + st n frames into 1 + n latent frames, each a function of its own and earlier frames only.

    The first latent frame codes the first frame alone, so an image is a video of one frame.

    Args:
        preset: one of `PRESETS`, the settings that are not given.
        layout: "shuffle" folds blocks of pixels into channels and computes at low resolution; "wan" has strided
            convolutions and attention within frames in the middle, as the Wan VAEs have.
        latent_channels: C of the latents.
        unshuffle: (frames, rows, columns) of the block of pixels that is folded into channels first.
        strides: (time, rows, columns) by which the grid is coarsened from each level to the next; one less than
            `widths`. With `unshuffle` their product is the stride of the whole. In "wan" (1, 2, 2) or (2, 2, 2).
        widths: channels at each level, finest first.
        decoder_widths: of the decoder, where they differ.
        num_blocks: residual blocks a level.
        time_kernel: how many latent frames a convolution sees, the last of them its own; 3 in "wan".
        shortcuts: "wan" only: an average or a copy beside every level, as in Wan 2.2.

    Raises:
        ValueError: settings that do not fit each other, a number below 1, or an unknown preset or layout.
    """

    streams = True

    def __init__(
        self,
        *,
        preset: str = "demo",
        layout: str | None = None,
        latent_channels: int | None = None,
        unshuffle: Sequence[int] | None = None,
        strides: Sequence[Sequence[int]] | None = None,
        widths: Sequence[int] | None = None,
        decoder_widths: Sequence[int] | None = None,
        num_blocks: int | None = None,
        time_kernel: int | None = None,
        shortcuts: bool | None = None,
    ) -> None:
        super().__init__()
        given = {key: value for key, value in locals().items() if key in _SETTINGS and value is not None}
        self.settings = resolved(preset, given)
        front, steps = self.settings["unshuffle"], self.settings["strides"]
        self.latent_channels = self.settings["latent_channels"]
        st, sh, sw = (prod(factors) for factors in zip(front, *steps, strict=True))
        self.stride = (st, sh, sw)
        shared = (self.latent_channels, front, steps)
        blocks = self.settings["num_blocks"]
        if self.settings["layout"] == "wan":
            rest = (blocks, self.settings["shortcuts"])
            self.encoder = wan_encoder(*shared, self.settings["widths"], *rest)
            self.decoder = wan_decoder(*shared, self.settings["decoder_widths"], *rest)
        else:
            rest = (blocks, self.settings["time_kernel"])
            self.encoder = shuffle_encoder(*shared, self.settings["widths"], *rest)
            self.decoder = shuffle_decoder(*shared, self.settings["decoder_widths"], *rest)
        self.register_buffer("latent_mean", torch.zeros(self.latent_channels))
        self.register_buffer("latent_std", torch.ones(self.latent_channels))

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, 1 + st n, H, W) in [-1, 1] -> the whitened mean (B, C, 1 + n, h, w)."""
        self.latent_grid(*video.shape[2:])  # raises where the video has no latents
        later = self.stride[0] * self._at_once(video.shape[0] * video.shape[3] * video.shape[4])
        first = later - self.stride[0] + 1
        rest = video[:, :, first:]
        pieces = [video[:, :, :first], *(rest.split(later, dim=2) if rest.shape[2] else ())]
        return torch.cat(list(self.encode_stream(pieces)), dim=2)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 1 + st n, H, W) -> (mean, log variance) before whitening, each (B, C, 1 + n, h, w)."""
        self.latent_grid(*video.shape[2:])  # raises where the video has no latents
        (mean, log_variance), _ = self._posterior(video, None)
        return mean, log_variance

    def decode(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Whitened (B, C, t, h, w) -> (B, 3, 1 + st (t - 1), H, W), about [-1, 1]; cropped to `size` where given."""
        pixels = z.shape[0] * z.shape[3] * z.shape[4] * self.stride[1] * self.stride[2]
        return torch.cat(list(self.decode_stream(z.split(self._at_once(pixels), dim=2), size)), dim=2)

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
            if frames < 1:
                raise ValueError(f"a piece of 0 frames: a temporal stride of {self.stride[0]} needs as many or more")
            # After the first piece the frame that makes 1 + st n is already behind.
            self.latent_grid(frames + (past is not None), height, width)
            (mean, _), past = self._posterior(chunk, past)
            yield self._whiten(mean)

    def decode_stream(self, latents: Iterable[Tensor], size: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """Decode (B, C, n, h, w), any n >= 1 a piece, exactly as the whole: 1 + st (n - 1) frames, then st n each."""
        past: Past = None
        for z in latents:
            if z.shape[1] != self.latent_channels:
                raise ValueError(f"latents have {self.latent_channels} channels, not {z.shape[1]}")
            video, past = self.decoder(
                z * self._per_channel(self.latent_std) + self._per_channel(self.latent_mean), past
            )
            yield video if size is None else video[..., : size[0], : size[1]]

    def _at_once(self, pixels: int) -> int:
        """How many latent frames are computed together, for so many pixels a frame: all where gradients are kept."""
        if torch.is_grad_enabled():
            return 1 << 30
        return max(1, PIECE_PIXELS // (self.stride[0] * pixels))

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
        if video.shape[1] != 3:
            raise ValueError(f"a video has 3 channels, red, green and blue, not {video.shape[1]}")
        _, sh, sw = self.stride
        pad = (0, -video.shape[4] % sw, 0, -video.shape[3] % sh, 0, 0)
        if any(pad):
            video = nn.functional.pad(video, pad, mode="replicate")
        moments, past = self.encoder(video, past)
        mean, log_variance = moments.chunk(2, dim=1)
        return (mean, log_variance.clamp(-20, 10)), past

    def _whiten(self, mean: Tensor) -> Tensor:
        return (mean - self._per_channel(self.latent_mean)) / self._per_channel(self.latent_std)

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)


_SETTINGS = (
    *("layout", "latent_channels", "unshuffle", "strides", "widths", "decoder_widths", "num_blocks", "time_kernel"),
    "shortcuts",
)


def resolved(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a network: those given, the others as in the preset. ValueError as `Causal3D` raises it."""
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is unknown; known: {', '.join(PRESETS)}")
    all_of = {"layout": "shuffle", "time_kernel": 3, "shortcuts": False, **PRESETS[preset], **given}
    if all_of["layout"] == "wan":
        all_of["time_kernel"] = given.get("time_kernel", 3)  # a preset's is of its own layout
    widths = tuple(all_of["widths"])
    # The decoder's widths of a preset belong to the encoder's of that preset.
    follows = "decoder_widths" not in given and ("widths" in given or "decoder_widths" not in all_of)
    decoder_widths = widths if follows else tuple(all_of["decoder_widths"])
    strides = tuple(_triple(stride) for stride in all_of["strides"])
    all_of.update(unshuffle=_triple(all_of["unshuffle"]), strides=strides, widths=widths, decoder_widths=decoder_widths)
    for some in (widths, decoder_widths):
        if len(strides) != len(some) - 1:
            raise ValueError(
                f"{len(some)} widths need {len(some) - 1} strides between them, not {len(strides)}: "
                f"widths {list(some)}, strides {[list(stride) for stride in strides]}"
            )
    if min(*(all_of[key] for key in ("latent_channels", "num_blocks", "time_kernel")), *widths, *decoder_widths) < 1:
        raise ValueError(
            f"latent_channels {all_of['latent_channels']}, num_blocks {all_of['num_blocks']}, time_kernel "
            f"{all_of['time_kernel']}, widths {list(widths)} and decoder_widths {list(decoder_widths)} start at 1"
        )
    _check_layout(all_of)
    return all_of


def _check_layout(settings: Mapping[str, Any]) -> None:
    layout, strides = settings["layout"], settings["strides"]
    if layout not in ("shuffle", "wan"):
        raise ValueError(f"layout {layout!r} is unknown; known: shuffle, wan")
    if layout == "shuffle" and settings["shortcuts"]:
        raise ValueError("shortcuts are for the layout wan")
    if layout == "wan" and settings["time_kernel"] != 3:
        raise ValueError(f"time_kernel is 3 in the layout wan, not {settings['time_kernel']}")
    if layout == "wan" and any(stride not in ((1, 2, 2), (2, 2, 2)) for stride in strides):
        raise ValueError(f"strides of the layout wan are (1, 2, 2) or (2, 2, 2), not {[list(s) for s in strides]}")


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    if len(values) != 3 or min(values) < 1:
        raise ValueError(f"a stride is (time, rows, columns), each at least 1, not {list(values)}")
    time, rows, columns = values
    return time, rows, columns
