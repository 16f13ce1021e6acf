"""Encoding and decoding tile by tile: memory that does not grow with the frame.

Letters: B clips, C channels, T H W frames, rows, columns in pixels, t h w in latents.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TypeAlias

import torch
from kinema_core import VideoVAE
from torch import Tensor, nn

from kinema_vae.layers import CausalConv3d, Shuffle, Unshuffle
from kinema_vae.wan_layout import FrameAttention

#: Makes the output of a tile, given its number and its part of the frame.
RunTile: TypeAlias = Callable[[int, Tensor], Tensor]


class TiledVAE(VideoVAE):
    """A VAE that is given one tile of the frame at a time.

    A network of convolutions gives what the whole frame would: each tile comes with a margin as wide as the network
    sees, which is cut off its output. Where positions of a frame see each other however far apart (attention), or the
    network is not one of ours, tiles see `overlap` more and fade into each other over as much, which is close but not
    equal: on a small network in Wan's layout 50 dB and more for an overlap of 32 pixels, 35 for 16.

    Args:
        vae: any VAE. Tiles have its stride's multiples as borders.
        tile: rows and columns of a tile in pixels, without its margin or overlap.
        overlap: of faded tiles, as a share of `tile`, up to a half: the width of the fade, and of a margin beyond it.

    Raises:
        ValueError: a tile smaller than a latent cell, or an overlap outside (0, 0.5].
    """

    def __init__(self, vae: VideoVAE, tile: int = 256, overlap: float = 0.25) -> None:
        super().__init__()
        if tile < max(vae.stride[1:]) or not 0 < overlap <= 0.5:
            raise ValueError(
                f"tile is {tile} and overlap {overlap}; a tile has at least the {max(vae.stride[1:])} pixels of a "
                "latent cell, an overlap is above 0 and at most 0.5"
            )
        self.vae = vae
        self.latent_channels, self.stride, self.streams = vae.latent_channels, vae.stride, vae.streams
        self.tile, self.overlap = tile, overlap
        self.reach = None if sees_all(vae) else (reach(vae, "encoder"), reach(vae, "decoder"))

    def encode(self, video: Tensor) -> Tensor:
        """As the VAE's; tile by tile."""
        self.latent_grid(*video.shape[2:])
        return self._encoded(video, lambda _, part: self.vae.encode(part))

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """The VAE's own, of the whole frame: training needs all of it."""
        return self.vae.posterior(video)

    def decode(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """As the VAE's; tile by tile."""
        return self._decoded(z, lambda _, part: self.vae.decode(part), size)

    def set_whitening(self, mean: Tensor, std: Tensor) -> None:
        """The VAE's own."""
        self.vae.set_whitening(mean, std)

    @property
    def last_layer(self) -> nn.Parameter:
        """The VAE's own."""
        return self.vae.last_layer

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """As the VAE's; tile by tile in each piece."""
        streams = _Streams(self.vae.encode_stream)
        for chunk in chunks:
            yield self._encoded(chunk, streams.next)

    def decode_stream(self, latents: Iterable[Tensor], size: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """As the VAE's; tile by tile in each piece."""
        streams = _Streams(self.vae.decode_stream)
        for z in latents:
            yield self._decoded(z, streams.next, size)

    def _encoded(self, video: Tensor, encode: RunTile) -> Tensor:
        _, sh, sw = self.stride
        pad = (0, -video.shape[4] % sw, 0, -video.shape[3] % sh, 0, 0)
        return self._tiles(nn.functional.pad(video, pad, mode="replicate"), encode, 0, (sh, sw), (1, 1))

    def _decoded(self, z: Tensor, decode: RunTile, size: tuple[int, int] | None) -> Tensor:
        video = self._tiles(z, decode, 1, (1, 1), self.stride[1:])
        return video if size is None else video[..., : size[0], : size[1]]

    def _tiles(
        self, x: Tensor, run: RunTile, way: int, before: tuple[int, int], after: tuple[int, int]
    ) -> Tensor:  # fmt: skip
        """Put together what `run` makes of the tiles of x; a cell has `before` rows and columns in x, `after` in that.

        Args:
            x: (B, C, T, H, W), all of the frame.
            run: gets a tile's number and its part of x.
            way: 0 to encode, 1 to decode.
            before, after: rows and columns.
        """
        cells = (x.shape[3] // before[0], x.shape[4] // before[1])
        out: Tensor | None = None
        for number, (rows, columns) in enumerate(product(*self._spans(cells, way))):
            seen = [_part(span.start, span.stop, scale) for span, scale in zip((rows, columns), before, strict=True)]
            used = [
                _part(span.low - span.start, span.high - span.start, scale)
                for span, scale in zip((rows, columns), after, strict=True)
            ]
            tile = run(number, x[..., *seen])[..., *used]
            if out is None:
                out = tile.new_zeros(*tile.shape[:3], cells[0] * after[0], cells[1] * after[1])
            weight = rows.weight(after[0])[:, None] * columns.weight(after[1])
            out[..., _part(rows.low, rows.high, after[0]), _part(columns.low, columns.high, after[1])] += (
                tile * weight.to(tile)
            )
        assert out is not None
        return out

    def _spans(self, grid: tuple[int, int], way: int) -> list[list["Span"]]:
        """Tiles along rows and along columns, in latent cells."""
        spans: list[list[Span]] = []
        for axis, cells in enumerate(grid):
            tile = max(1, self.tile // self.stride[1 + axis])
            if self.reach is None:
                shared = max(1, round(self.overlap * tile))
                spans.append(faded(cells, tile, shared, shared))
            else:
                spans.append(cut(cells, tile, self.reach[way][axis]))
        return spans


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in latent cells.

    Attributes:
        start, stop: what the network is given.
        low, high: what of its output is used; within start and stop.
        shared: how many of these cells the neighbours at either end use too, (before, after).
    """

    start: int
    stop: int
    low: int
    high: int
    shared: tuple[int, int] = (0, 0)

    def weight(self, scale: int) -> Tensor:
        """(cells * scale,): a rise and a fall over the shared cells, so that all tiles together add up to 1."""
        rise, fall = (_ramp(cells * scale) for cells in self.shared)
        middle = torch.ones((self.high - self.low) * scale - len(rise) - len(fall))
        return torch.cat([rise, middle, fall.flip(0)])


def cut(cells: int, tile: int, margin: int) -> list[Span]:
    """Tiles side by side, each seeing `margin` cells more on either side, as far as there are any."""
    return [
        Span(max(0, low - margin), min(cells, low + tile + margin), low, min(cells, low + tile))
        for low in range(0, cells, tile)
    ]


def faded(cells: int, tile: int, shared: int, margin: int) -> list[Span]:
    """Tiles whose neighbours share `shared` cells around every multiple of `tile`, and see `margin` cells more."""
    half = shared // 2
    count = 1 + max(0, (cells - (shared - half)) // tile)
    size = min(cells, tile + shared + 2 * margin)
    spans: list[Span] = []
    for i in range(count):
        low = max(0, i * tile - half)
        high = cells if i + 1 == count else (i + 1) * tile - half + shared
        # As much is seen at the frame's edges as elsewhere: attention gives another result over fewer cells.
        start = min(max(0, low - margin), cells - size)
        spans.append(Span(start, start + size, low, high, (shared if i else 0, shared if i + 1 < count else 0)))
    return spans


def _ramp(steps: int) -> Tensor:
    return (torch.arange(steps) + 0.5) / max(1, steps)


class _Streams:
    """One stream a tile, all fed with the same pieces of a video."""

    def __init__(self, run: Callable[[Iterable[Tensor]], Iterator[Tensor]]) -> None:
        self.run = run
        self.feeds: dict[int, list[Tensor]] = {}
        self.streams: dict[int, Iterator[Tensor]] = {}

    def next(self, number: int, part: Tensor) -> Tensor:
        """What the stream of tile `number` makes of the next part of it."""
        if number not in self.streams:
            self.feeds[number] = []
            self.streams[number] = self.run(_drain(self.feeds[number]))
        self.feeds[number].append(part)
        return next(self.streams[number])


def _drain(feed: list[Tensor]) -> Iterator[Tensor]:
    while True:
        yield feed.pop()


def _part(low: int, high: int, scale: int) -> slice:
    return slice(low * scale, high * scale)


def sees_all(vae: VideoVAE) -> bool:
    """Whether how far the network sees within a frame is not known, or all of the frame."""
    layers = [module for name in ("encoder", "decoder") for module in getattr(vae, name, nn.Module()).modules()]
    return not hasattr(vae, "settings") or any(isinstance(layer, FrameAttention) for layer in layers)


def reach(vae: VideoVAE, part: str) -> tuple[int, int]:
    """How many latent cells to each side an output of the "encoder" or "decoder" depends on: rows, columns."""
    cell = [1.0, 1.0] if part == "encoder" else [float(s) for s in vae.stride[1:]]  # pixels
    seen = [0.0, 0.0]
    for layer in getattr(vae, part).modules():
        for axis in (0, 1):
            if isinstance(layer, CausalConv3d):
                seen[axis] += layer.kernel_size[1 + axis] // 2 * cell[axis]
            elif isinstance(layer, Unshuffle):
                cell[axis] *= layer.stride[1 + axis]
            elif isinstance(layer, Shuffle):
                cell[axis] /= layer.stride[1 + axis]
    return ceil(seen[0] / vae.stride[1]), ceil(seen[1] / vae.stride[2])
