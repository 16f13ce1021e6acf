"""Layers that see no future frame and run in pieces.

Every layer here is called as `y, past = layer(x, past)` with x (B, C, T, H, W). `past` is what the layer has to
remember of the frames before x: None at the start of a video, otherwise what it returned for the piece before, which
is used up: it is emptied as it is read, or a piece would need the memory of two pasts. No layer keeps state of its
own, so pieces of several videos may be interleaved, and a video run in pieces equals the whole.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn

#: None at the start of a video; otherwise what the layer made of it, emptied as it is read.
Past: TypeAlias = "list[Any] | tuple[()] | None"

#: Values that go through layers together when no gradients are kept, if one frame has no more.
PART = 1 << 21

#: Values that stay in the cache of a core.
CACHED = 1 << 16


class CausalSequence(nn.ModuleList):
    """Layers one after the other; its past is the list of theirs, those of sequences within it among them.

    Without gradients it goes depth first: wherever a piece has grown beyond `PART` values, its parts go through all
    layers that follow one after the other, so that what lies between layers is small however large the frames are. A
    layer that has `together` set needs blocks of frames whole.
    """

    def forward(self, x: Tensor, past: Past = None) -> tuple[Tensor, Past]:
        """x (B, C, T, H, W) -> the last layer's output, and what to remember."""
        layers = list(self.flat())
        pasts = [None] * len(layers) if past is None else list(past)
        return _through(layers, pasts, x, 0), pasts

    def flat(self) -> Iterator[nn.Module]:
        """The layers, those of sequences within it in their place."""
        for layer in self:
            if isinstance(layer, CausalSequence):
                yield from layer.flat()
            else:
                yield layer


def _through(layers: Sequence[nn.Module], pasts: list[Past], x: Tensor, start: int) -> Tensor:
    """What the layers from number `start` on make of x; changes `pasts`."""
    for at in range(start, len(layers)):
        if not x.shape[2]:
            return x
        frames = max(1, PART // x[:, :, :1].numel())
        together = torch.is_grad_enabled() or any(getattr(layer, "together", False) for layer in layers[at:])
        if frames < x.shape[2] and not together:
            done = [_through(layers, pasts, part, at) for part in x.split(frames, dim=2)]
            # Where frames are made fewer, a part may be too short to give one.
            return joined([y for y in done if y.shape[2]] or done[:1])
        x, pasts[at] = layers[at](x, pasts[at])
    return x


def frames_of(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W); a view of what `clips_of` returned."""
    return x.transpose(1, 2).flatten(0, 1)


def clips_of(frames: Tensor, clips: int) -> Tensor:
    """The inverse of `frames_of`: (B T, C, H, W) -> a view (B, C, T, H, W), frame after frame in memory."""
    return frames.unflatten(0, (clips, -1)).transpose(1, 2)


def _by_frames(x: Tensor) -> bool:
    """Whether convolutions go frame by frame, and videos lie frame after frame in memory."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces of videos (B, C, T, H, W), one after the other in time."""
    if not _by_frames(pieces[0]):
        return torch.cat(list(pieces), dim=2)
    return torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1).transpose(1, 2)


class Conv3d(nn.Conv3d):
    """A 3D convolution that looks at each frame and the `kernel - 1` before it."""

    def forward(self, x: Tensor, missing: int = 0) -> Tensor:
        """The frames before and the frames, (B, C, kernel - 1 - missing + T, H, W) -> (B, C', T, H', W').

        The first `missing` frames are not there, for they are zero.
        """
        if not _by_frames(x):
            return super().forward(nn.functional.pad(x, (0, 0, 0, 0, missing, 0)) if missing else x)
        # A sum of convolutions in two dimensions: on CPUs the one in three is several times slower over few frames of
        # many pixels, and needs memory for a reordered copy of them all.
        clips, kernels = len(x), self.weight.unbind(2)
        before = len(kernels) - 1 - missing
        frames = x.shape[2] - before
        y = clips_of(self._within(x[:, :, before:], kernels[-1], self.bias), clips)
        for lag, kernel in enumerate(reversed(kernels[:-1]), 1):
            first = max(0, lag - before)  # frame that has a frame so long before it
            if first < frames:
                seen = x[:, :, before + first - lag : before + frames - lag]
                y[:, :, first:] += clips_of(self._within(seen, kernel), clips)
        return y

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
        """(B, C, T, H, W) -> (B, C', T, H, W); remembers the last kernel - 1 input frames, zeros left out."""
        if self.memory == 0:
            return super().forward(x), ()
        frames = x.shape[2]
        if past is not None:
            x = joined([past.pop(), x])
        elif not self.blank:
            x = joined([x[:, :, :1].expand(-1, -1, self.memory, -1, -1), x])
        missing = self.memory + frames - x.shape[2]
        # The clone lets go of the other frames, which a view would keep in memory.
        return super().forward(x, missing), [x[:, :, -self.memory :].clone()]


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
    """x + two causal convolutions of it, 3 x 3 in space, each after `NormAct`; x is mapped where the widths differ."""

    def __init__(self, in_channels: int, out_channels: int, *, blank: bool = False, time_kernel: int = 3) -> None:
        super().__init__()
        kernel = (time_kernel, 3, 3)
        self.body = CausalSequence(
            [
                NormAct(in_channels),
                CausalConv3d(in_channels, out_channels, kernel, blank=blank),
                NormAct(out_channels),
                CausalConv3d(out_channels, out_channels, kernel, blank=blank),
            ]
        )
        self.shortcut = Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, past: Past) -> tuple[Tensor, Past]:
        """(B, C, T, H, W) -> (B, C', T, H, W)."""
        change, past = self.body(x, past)
        return self.shortcut(x) + change, past


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
        self.together = stride[0] > 1

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
