"""The layout of the Wan VAEs: strided convolutions down, nearest-neighbour upsampling, attention within frames.

Wan 2.1 (Team Wan 2025) and, with `shortcuts`, Wan 2.2: every level's change of resolution has an average or a copy
beside it. Before the first frame the convolutions see zeros. All layers follow the protocol of `layers`.

Letters: B clips, C channels, T H W frames, rows, columns.
"""

from collections.abc import Sequence
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from kinema_vae.layers import (
    PART,
    CausalConv3d,
    CausalSequence,
    Conv3d,
    NormAct,
    Past,
    ResidualBlock,
    RMSNorm,
    Shuffle,
    Unshuffle,
    clips_of,
    folded,
    frames_of,
    joined,
    unfolded,
)

Stride = tuple[int, int, int]


def wan_encoder(
    latent_channels: int,
    front: Stride,
    strides: Sequence[Stride],
    widths: Sequence[int],
    num_blocks: int,
    shortcuts: bool,
) -> CausalSequence:
    """(B, 3, T, H, W) -> mean and log variance in one (B, 2 C, t, h, w)."""
    levels: list[nn.Module] = []
    before = widths[0]
    for width, stride in zip(widths, (*strides, None), strict=True):
        layers: list[nn.Module] = [_block(before if i == 0 else width, width) for i in range(num_blocks)]
        if stride is not None:
            layers.append(Down(width, over_time=stride[0] == 2))
        if shortcuts:
            levels.append(Beside(CausalSequence(layers), AverageDown(before, width, stride or (1, 1, 1))))
        else:
            levels += layers
        before = width
    return CausalSequence(
        [
            Unshuffle(front),
            CausalConv3d(3 * prod(front), widths[0], blank=True),
            CausalSequence(levels),
            _middle(widths[-1]),
            NormAct(widths[-1]),
            CausalConv3d(widths[-1], 2 * latent_channels, blank=True),
            CausalConv3d(2 * latent_channels, 2 * latent_channels, (1, 1, 1)),
        ]
    )


def wan_decoder(
    latent_channels: int,
    front: Stride,
    strides: Sequence[Stride],
    widths: Sequence[int],
    num_blocks: int,
    shortcuts: bool,
) -> CausalSequence:
    """(B, C, t, h, w) -> (B, 3, T, H, W); a level has one block more than the encoder's."""
    levels: list[nn.Module] = []
    before = widths[-1]
    for width, stride in zip(widths[::-1], (*strides[::-1], None), strict=True):
        layers: list[nn.Module] = [_block(before if i == 0 else width, width) for i in range(num_blocks + 1)]
        after = width
        if stride is not None:
            after = width if shortcuts else width // 2
            layers.append(Up(width, after, over_time=stride[0] == 2))
        level = CausalSequence(layers)
        levels.append(Beside(level, CopyUp(before, width, stride)) if shortcuts and stride is not None else level)
        before = after
    return CausalSequence(
        [
            CausalConv3d(latent_channels, latent_channels, (1, 1, 1)),
            CausalConv3d(latent_channels, widths[-1], blank=True),
            _middle(widths[-1]),
            CausalSequence(levels),
            NormAct(widths[0]),
            CausalConv3d(widths[0], 3 * prod(front), blank=True),
            Shuffle(front),
        ]
    )


def _block(in_channels: int, out_channels: int) -> ResidualBlock:
    return ResidualBlock(in_channels, out_channels, blank=True)


def _middle(channels: int) -> CausalSequence:
    return CausalSequence([_block(channels, channels), FrameAttention(channels), _block(channels, channels)])


class FrameAttention(nn.Module):
    """Adds self-attention with one head among the positions of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor, _: Past = None) -> tuple[Tensor, Past]:
        """(B, C, T, H, W) -> the same shape; remembers nothing."""
        tokens = rearrange(self.norm(x), "b c t h w -> b t (h w) c")
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        mixed = self.project(functional.scaled_dot_product_attention(q, k, v))
        return x + rearrange(mixed, "b t (h w) c -> b c t h w", h=x.shape[3]), ()


class Down(nn.Module):
    """Halves rows and columns, and with `over_time` 1 + 2n frames to 1 + n: the first frame is left alone."""

    def __init__(self, channels: int, *, over_time: bool) -> None:
        super().__init__()
        self.conv = Conv3d(channels, channels, (1, 3, 3), stride=(1, 2, 2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if over_time else None

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """(B, C, T, H, W) -> (B, C, T', H / 2, W / 2); remembers one frame, or two where T was odd."""
        x = self.conv(clips_of(functional.pad(frames_of(x), (0, 1, 0, 1)), len(x)))
        if self.time_conv is None:
            return x, ()
        if past is None:  # the first frame, and what follows it
            coarse, later = self._coarser(x)
            return torch.cat([x[:, :, :1], coarse], dim=2), [later]
        coarse, later = self._coarser(joined([past.pop(), x]))
        return coarse, [later]

    def _coarser(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Every second frame seen with both its neighbours, and the frames that the next ones are seen with."""
        frames = (x.shape[2] - 1) // 2
        assert self.time_conv is not None
        coarse = self.time_conv(x[:, :, : 2 * frames + 1]) if frames else x[:, :, :0]
        return coarse, x[:, :, 2 * frames :].clone()


class Up(nn.Module):
    """Doubles rows and columns, and with `over_time` 1 + n frames to 1 + 2n: the first frame is left alone.

    The convolution over time begins anew with the second frame, as in the published networks.
    """

    def __init__(self, in_channels: int, out_channels: int, *, over_time: bool) -> None:
        super().__init__()
        self.time_conv = CausalConv3d(in_channels, 2 * in_channels, (3, 1, 1), blank=True) if over_time else None
        self.conv = Conv3d(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """(B, C, T, H, W) -> (B, C', T', 2 H, 2 W); remembers two frames."""
        if self.time_conv is None:
            return self._finer(x), ()
        first, later = (x[:, :, :1], x[:, :, 1:]) if past is None else (x[:, :, :0], x)
        if later.shape[2]:
            later, past = self.time_conv(later, past or None)
            later = rearrange(later, "b (k c) t h w -> b c (t k) h w", k=2)
        elif past is None:
            past = ()  # has begun, and no second frame is behind
        return self._finer(torch.cat([first, later], dim=2) if first.shape[2] else later), past

    def _finer(self, x: Tensor) -> Tensor:
        frames = x.shape[2] if torch.is_grad_enabled() else max(1, PART // (4 * x[:, :, :1].numel()))
        return joined([self.conv(_doubled(part)) for part in x.split(frames, dim=2)])


class Beside(nn.Module):
    """The sum of a level and of its input brought to the level's output without weights."""

    def __init__(self, level: CausalSequence, shortcut: nn.Module) -> None:
        super().__init__()
        self.level = level
        self.shortcut = shortcut
        self.together = isinstance(shortcut, AverageDown) and shortcut.stride[0] > 1

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """(B, C, T, H, W) -> the level's output; remembers what the level does."""
        aside = self.shortcut(x, past is None)
        y, past = self.level(x, past)
        return y + aside, past


class AverageDown(nn.Module):
    """Blocks of cells to channels, then means of neighbouring channels; zeros come before the first frame."""

    def __init__(self, in_channels: int, out_channels: int, stride: Stride) -> None:
        super().__init__()
        if in_channels * prod(stride) % out_channels:
            raise ValueError(f"{out_channels} channels are no mean of {in_channels} in blocks of {stride}")
        self.stride, self.out_channels = stride, out_channels

    def forward(self, x: Tensor, starts: bool) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T', H', W')."""
        x = functional.pad(x, (0, 0, 0, 0, self.stride[0] - 1, 0)) if starts else x
        return folded(x, self.stride).unflatten(1, (self.out_channels, -1)).mean(2)


class CopyUp(nn.Module):
    """Channels repeated, then channels to blocks of cells; the copies before the first frame are dropped."""

    def __init__(self, in_channels: int, out_channels: int, stride: Stride) -> None:
        super().__init__()
        if out_channels * prod(stride) % in_channels:
            raise ValueError(f"{in_channels} channels do not repeat to {out_channels} in blocks of {stride}")
        self.stride, self.repeats = stride, out_channels * prod(stride) // in_channels

    def forward(self, x: Tensor, starts: bool) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T', H', W')."""
        x = unfolded(x.repeat_interleave(self.repeats, dim=1), self.stride)
        return x[:, :, self.stride[0] - 1 :] if starts else x


def _doubled(x: Tensor) -> Tensor:
    return clips_of(functional.interpolate(frames_of(x), scale_factor=2, mode="nearest"), len(x))
