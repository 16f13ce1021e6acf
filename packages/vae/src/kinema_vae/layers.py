"""Layers that see no future frame and run in pieces.

Every layer here is called as `y, past = layer(x, past)` with x (B, C, T, H, W). `past` is what the layer has to
remember of the frames before x: None at the start of a video, otherwise what it returned for the piece before, which
is used up: each layer's part is let go as it is read, or a piece would need the memory of two pasts. No layer keeps
state of its own, so pieces of several videos may be interleaved, and a video run in pieces equals the whole.
"""

from collections.abc import Sequence
from math import prod
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn

#: None at the start of a video; otherwise nested as the layers are.
Past: TypeAlias = "Tensor | list[Past] | tuple[()] | None"

#: Values that a layer computes at once when no gradients are kept, if one frame has no more.
PART = 1 << 22


class CausalSequence(nn.ModuleList):
    """Layers one after the other; its past is the list of theirs."""

    def forward(self, x: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        """x (B, C, T, H, W) -> the last layer's output, and what to remember."""
        pasts: list[Past] = [None] * len(self) if past is None else past
        kept: list[Past] = []
        for layer in self:
            x, after = layer(x, pasts.pop(0))
            kept.append(after)
        return x, kept


class CausalConv3d(nn.Conv3d):
    """A 3D convolution of stride 1, zero-padded in space, that looks back in time only.

    Before the first frame it sees copies of the first frame, as if the video had been still until then, or zeros.
    Either way an image and the first frame of a video are the same.

    Args:
        in_channels, out_channels: C before and after.
        kernel: extent in (time, rows, columns); rows and columns odd.
        blank: zeros come before the first frame.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int, int] = (3, 3, 3), *, blank: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))
        self.memory = kernel[0] - 1
        self.blank = blank

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """(B, C, T, H, W) -> (B, C', T, H, W); remembers the last kernel - 1 input frames."""
        if self.memory == 0:
            return super().forward(x), ()
        if past is None:
            first = torch.zeros_like(x[:, :, :1]) if self.blank else x[:, :, :1]
            past = first.expand(-1, -1, self.memory, -1, -1)
        x = torch.cat([past, x], dim=2)
        # The clone lets go of the other frames, which a view would keep in memory.
        return super().forward(x), x[:, :, x.shape[2] - self.memory :].clone()


def parts(x: Tensor) -> Sequence[Tensor]:
    """(B, C, T, H, W) cut along time into parts of `PART` values; whole where gradients are kept.

    What a layer makes on the way is several times as large as x, so that memory is mostly that of the parts.
    """
    if torch.is_grad_enabled():
        return (x,)
    return x.split(max(1, PART // x[:, :, :1].numel()), dim=2)


def joined(done: Sequence[Tensor]) -> Tensor:
    """The inverse of `parts`."""
    return done[0] if len(done) == 1 else torch.cat(list(done), dim=2)


class RMSNorm(nn.Module):
    """RMS normalisation over the channels of each position. Without statistics over time it is causal."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        # Squares in float32: in bfloat16 a mean over channels is off by a percent.
        scale = torch.rsqrt(x.square().mean(dim=1, keepdim=True, dtype=torch.float32) + 1e-12).to(x.dtype)
        return x * scale * self.gain.view(-1, 1, 1, 1)


class NormAct(RMSNorm):
    """`RMSNorm`, then SiLU."""

    def forward(self, x: Tensor, _: Past = None) -> tuple[Tensor, Past]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, T, H, W) -> the same shape; remembers nothing."""
        return nn.functional.silu(super().forward(x)), ()


class ResidualBlock(nn.Module):
    """x + two causal 3 x 3 x 3 convolutions of it, each after `NormAct`; x mapped linearly where the widths differ."""

    def __init__(self, in_channels: int, out_channels: int, *, blank: bool = False) -> None:
        super().__init__()
        self.body = CausalSequence(
            [
                NormAct(in_channels),
                CausalConv3d(in_channels, out_channels, blank=blank),
                NormAct(out_channels),
                CausalConv3d(out_channels, out_channels, blank=blank),
            ]
        )
        self.shortcut = nn.Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """(B, C, T, H, W) -> (B, C', T, H, W)."""
        done: list[Tensor] = []
        for part in parts(x):
            change, past = self.body(part, past)
            done.append(self.shortcut(part) + change)
        return joined(done), past


def folded(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Blocks of cells to channels: (B, C, t st, h sh, w sw) -> (B, C st sh sw, t, h, w)."""
    st, sh, sw = stride
    return rearrange(x, "b c (t st) (h sh) (w sw) -> b (c st sh sw) t h w", st=st, sh=sh, sw=sw)


def unfolded(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """The inverse of `folded`."""
    st, sh, sw = stride
    return rearrange(x, "b (c st sh sw) t h w -> b c (t st) (h sh) (w sw)", st=st, sh=sh, sw=sw)


class Unshuffle(nn.Module):
    """Pixels to channels over space and time, without loss: (B, C, T, H, W) -> (B, C st sh sw, t, h, w).

    At the start of a video it puts st - 1 copies of the first frame in front, so 1 + st n frames become 1 + n, and the
    first of these holds nothing but the first frame.
    """

    def __init__(self, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """T is 1 + st n at the start of a video, st n later; H and W are multiples of sh and sw."""
        if past is None:
            x = torch.cat([x[:, :, :1].expand(-1, -1, self.stride[0] - 1, -1, -1), x], dim=2)
        return folded(x, self.stride), ()


class Shuffle(nn.Module):
    """The inverse of `Unshuffle`: it drops the st - 1 frames before the first of a video."""

    def __init__(self, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """(B, C st sh sw, t, h, w) -> (B, C, T, H, W)."""
        x = unfolded(x, self.stride)
        return (x[:, :, self.stride[0] - 1 :] if past is None else x), ()


def unshuffle_conv(in_channels: int, out_channels: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    """To a coarser grid: every block of cells becomes one, mapped linearly to `out_channels`."""
    return [Unshuffle(stride), CausalConv3d(in_channels * prod(stride), out_channels, (1, 1, 1))]


def conv_shuffle(in_channels: int, out_channels: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    """To a finer grid: every cell is mapped linearly to a block of cells of `out_channels`."""
    return [CausalConv3d(in_channels, out_channels * prod(stride), (1, 1, 1)), Shuffle(stride)]
