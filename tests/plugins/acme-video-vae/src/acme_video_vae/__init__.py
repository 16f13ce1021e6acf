"""AcmeVAE: 2D convolutions on single frames, and one code for each group of frames."""

from collections.abc import Iterable, Iterator

import torch
from kinema_core import VideoVAE
from torch import Tensor, nn


class AcmeVAE(VideoVAE):
    """Codes the first frame alone and then every `group` frames by one code, without memory between groups.

    Args:
        hidden: channels of the convolutions.
        code_size: channels of the latents.
        downsample: pixels a latent cell in rows and columns.
        group: frames a latent frame.
    """

    streams = True

    def __init__(self, hidden: int = 48, code_size: int = 6, downsample: int = 4, group: int = 4) -> None:
        super().__init__()
        self.latent_channels = code_size
        self.stride = (group, downsample, downsample)
        self.frame_net = nn.Sequential(
            nn.PixelUnshuffle(downsample),
            nn.Conv2d(3 * downsample**2, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GELU(),
        )
        # The mean over a group's frames forgets their order: a weight for each place in the group keeps it.
        self.place = nn.Parameter(1 + 0.1 * torch.randn(group, hidden, 1, 1))
        self.to_code = nn.Conv2d(hidden, 2 * code_size, 1)
        self.from_code = nn.Sequential(
            nn.Conv2d(code_size, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, 3 * group * downsample**2, 3, padding=1),
            nn.PixelShuffle(downsample),
        )
        self.register_buffer("shift", torch.zeros(code_size, 1, 1, 1))
        self.register_buffer("scale", torch.ones(code_size, 1, 1, 1))

    def encode(self, video: Tensor) -> Tensor:
        return (self.posterior(video)[0] - self.shift) / self.scale

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        self.latent_grid(*video.shape[2:])
        return self._groups(torch.cat([video[:, :, :1].expand(-1, -1, self.stride[0] - 1, -1, -1), video], dim=2))

    def _groups(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, group * t, H, W) -> mean and log variance, each (B, C, t, h, w)."""
        group, downsample, _ = self.stride
        pad = (0, -video.shape[4] % downsample, 0, -video.shape[3] % downsample, 0, 0)
        frames = nn.functional.pad(video, pad, mode="replicate").transpose(1, 2)
        features = self.frame_net(frames.flatten(0, 1))
        features = features.unflatten(0, (len(video), -1, group))  # (B, t, group, hidden, h, w)
        pooled = (features * self.place).mean(dim=2)
        moments = self.to_code(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2]).transpose(1, 2)
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def decode(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return next(self.decode_stream([z], size))

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        for index, chunk in enumerate(chunks):
            mean, _ = self._groups(chunk) if index else self.posterior(chunk)
            yield (mean - self.shift) / self.scale

    def decode_stream(self, latents: Iterable[Tensor], size: tuple[int, int] | None = None) -> Iterator[Tensor]:
        for index, z in enumerate(latents):
            codes = (z * self.scale + self.shift).transpose(1, 2)  # (B, t, C, h, w)
            frames = self.from_code(codes.flatten(0, 1))  # (B t, 3 group, H, W)
            frames = frames.unflatten(1, (self.stride[0], 3)).unflatten(0, codes.shape[:2]).flatten(1, 2)
            video = frames.transpose(1, 2)[:, :, 0 if index else self.stride[0] - 1 :]
            yield video if size is None else video[..., : size[0], : size[1]]

    def set_whitening(self, mean: Tensor, std: Tensor) -> None:
        self.shift.copy_(mean.view(-1, 1, 1, 1))
        self.scale.copy_(std.view(-1, 1, 1, 1))

    @property
    def last_layer(self) -> nn.Parameter:
        return self.from_code[4].weight
