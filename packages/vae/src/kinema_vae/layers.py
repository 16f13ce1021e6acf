"""Layers that see no future frame and run in pieces.

Every layer here is called as `y, past = layer(x, past)` with x (B, C, T, H, W). `past` is what the layer has to
remember of the frames before x: None at the start of a video, otherwise what it returned for the piece before, which
is used up: each layer's part is let go as it is read, or a piece would need the memory of two pasts. No layer keeps
state of its own, so pieces of several videos may be interleaved, and a video run in pieces equals the whole.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn

#: None at the start of a video; otherwise nested as the layers are.
Past: TypeAlias = "Tensor | list[Past] | tuple[()] | None"

#: Values that a layer computes at once when no gradients are kept, if one frame has no more.
PART = 1 << 21

#: Values that stay in the cache of a core.
CACHED = 1 << 16


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


def frames_of(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W); a view of what `clips_of` returned."""
    return x.transpose(1, 2).flatten(0, 1)


def clips_of(frames: Tensor, clips: int) -> Tensor:
    """The inverse of `frames_of`: (B T, C, H, W) -> a view (B, C, T, H, W), frame after frame in memory."""
    return frames.unflatten(0, (clips, -1)).transpose(1, 2)


def _by_frames(x: Tensor) -> bool:
    """Whether convolutions go frame by frame, and videos lie frame after frame in memory."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def _joined(past: Tensor, x: Tensor) -> Tensor:
    """The past and x, one after the other in time."""
    if not _by_frames(x):
        return torch.cat([past, x], dim=2)
    return torch.cat([past.transpose(1, 2), x.transpose(1, 2)], dim=1).transpose(1, 2)


class Conv3d(nn.Conv3d):
    """A 3D convolution that looks at each frame and the `kernel - 1` before it, all of which it is given."""

    def forward(self, x: Tensor, zeros: int = 0) -> Tensor:
        """(B, C, kernel - 1 + T, H, W), the first `zeros` frames of which are zero -> (B, C', T, H', W')."""
        if not _by_frames(x):
            return super().forward(x)
        # A sum of convolutions in two dimensions: on CPUs the one in three is several times slower over few frames of
        # many pixels, and needs memory for a reordered copy of them all.
        clips, kernels = len(x), self.weight.unbind(2)
        frames = x.shape[2] - len(kernels) + 1
        y = self._within(x[:, :, len(kernels) - 1 :], kernels[-1], self.bias)
        for at, kernel in enumerate(kernels[:-1]):
            blank = min(frames, max(0, zeros - at))
            if blank < frames:
                clips_of(y, clips)[:, :, blank:] += clips_of(self._within(x[:, :, at + blank : at + frames], kernel), clips)
        return clips_of(y, clips)

    def _within(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, C, T, H, W) -> (B T, C', H', W'): one part of the kernel over every frame."""
        _, *padding = self.padding
        _, *stride = self.stride
        return nn.functional.conv2d(frames_of(x), kernel, bias, stride, padding)


class CausalConv3d(Conv3d):
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

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, T, H, W) -> (B, C', T, H, W); remembers the last kernel - 1 input frames."""
        if self.memory == 0:
            return super().forward(x), ()
        frames, zeros = x.shape[2], self.memory if past is None and self.blank else 0
        if past is None:
            first = torch.zeros_like(x[:, :, :1]) if self.blank else x[:, :, :1]
            past = first.expand(-1, -1, self.memory, -1, -1)
        x = _joined(past, x)
        # The clone lets go of the other frames, which a view would keep in memory.
        return super().forward(x, zeros), x[:, :, frames:].clone()


def in_parts(x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
    """`call` of (B, C, T, H, W), part after part of about `PART` values along time; at once where gradients are kept.

    What a layer makes on the way is several times as large as x, so that memory is mostly that of the parts.
    """
    frames = max(1, PART // x[:, :, :1].numel())
    if torch.is_grad_enabled() or frames >= x.shape[2]:
        return call(x)
    y = None
    for at in range(0, x.shape[2], frames):
        part = call(x[:, :, at : at + frames])
        if y is None:
            clips, channels, _, height, width = part.shape
            y = clips_of(part.new_empty(clips * x.shape[2], channels, height, width), clips)
        y[:, :, at : at + frames] = part
    assert y is not None
    return y


class RMSNorm(nn.Module):
    """RMS normalisation over the channels of each position. Without statistics over time it is causal."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        # Squares in float32: in bfloat16 a mean over channels is off by a percent.
        keep = torch.is_grad_enabled()
        mean = x.square().mean(1, keepdim=True, dtype=torch.float32) if keep else _squares(x) / x.shape[1]
        y, gain = x * torch.rsqrt(mean + 1e-12).to(x.dtype), self.gain.view(-1, 1, 1, 1)
        return y * gain if keep else y.mul_(gain)


def _squares(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, 1, T, H, W): the sum of squares over channels, with no copy of x."""
    # As many channels at once as stay in the cache, squared and added in one pass.
    some = min(x.shape[1], max(1, CACHED // x[:, :1].numel()))
    total = torch.zeros_like(x[:, :some], dtype=torch.float32)
    for part in x.split(some, dim=1):
        total[:, : part.shape[1]].addcmul_(part, part)
    return total.sum(dim=1, keepdim=True)


class NormAct(RMSNorm):
    """`RMSNorm`, then SiLU."""

    def forward(self, x: Tensor, _: Past = None) -> tuple[Tensor, Past]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, T, H, W) -> the same shape; remembers nothing."""
        return nn.functional.silu(super().forward(x), inplace=not torch.is_grad_enabled()), ()


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
        self.shortcut = Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """(B, C, T, H, W) -> (B, C', T, H, W)."""
        def block(part: Tensor) -> Tensor:
            nonlocal past
            change, past = self.body(part, past)
            return self.shortcut(part) + change

        return in_parts(x, block), past


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
