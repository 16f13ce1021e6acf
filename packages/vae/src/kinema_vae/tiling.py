"""Encoding and decoding tile by tile: memory that does not grow with the frame.

Letters: B clips, C channels, T H W frames, rows, columns in pixels, t h w in latents.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import torch
from kinema_core import VideoVAE
from torch import Tensor, nn

from kinema_vae.layers import CausalConv3d, Shuffle, Unshuffle
from kinema_vae.wan_layout import FrameAttention


class TiledVAE(VideoVAE):
    """A VAE that is given one tile of the frame at a time.

    A network of convolutions gives what the whole frame would: each tile comes with a margin as wide as the network
    sees, which is cut off its output. Where positions of a frame see each other however far apart (attention), or the
    network is not one of ours, tiles overlap by `overlap` and fade into each other, which is close but not equal.

    Args:
        vae: any VAE. Tiles have its stride's multiples as borders.
        tile: rows and columns of a tile in pixels, without its margin or overlap.
        overlap: of faded tiles, as a share of `tile`, up to a half.

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
        return next(self.encode_stream([video]))

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """The VAE's own, of the whole frame: training needs all of it."""
        return self.vae.posterior(video)

    def decode(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """As the VAE's; tile by tile."""
        return next(self.decode_stream([z], size))

    def set_whitening(self, mean: Tensor, std: Tensor) -> None:
        """The VAE's own."""
        self.vae.set_whitening(mean, std)

    @property
    def last_layer(self) -> nn.Parameter:
        """The VAE's own."""
        return self.vae.last_layer

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """As the VAE's; tile by tile in each piece."""
        _, sh, sw = self.stride
        streams: _Streams | None = None
        for chunk in chunks:
            height, width = chunk.shape[3:]
            pad = (0, -width % sw, 0, -height % sh, 0, 0)
            whole = nn.functional.pad(chunk, pad, mode="replicate")
            if streams is None:
                grid = (whole.shape[3] // sh, whole.shape[4] // sw)
                streams = _Streams(self._spans(grid, 0), self.vae.encode_stream)
            yield streams.next(whole, (sh, sw), (1, 1))

    def decode_stream(self, latents: Iterable[Tensor], size: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """As the VAE's; tile by tile in each piece."""
        _, sh, sw = self.stride
        streams: _Streams | None = None
        for z in latents:
            if streams is None:
                streams = _Streams(self._spans((z.shape[3], z.shape[4]), 1), self.vae.decode_stream)
            video = streams.next(z, (1, 1), (sh, sw))
            yield video if size is None else video[..., : size[0], : size[1]]

    def _spans(self, grid: tuple[int, int], way: int) -> list[list["Span"]]:
        """Tiles along rows and along columns, in latent cells."""
        spans: list[list[Span]] = []
        for axis, cells in enumerate(grid):
            tile = max(1, self.tile // self.stride[1 + axis])
            if self.reach is None:
                spans.append(faded(cells, tile, max(1, round(self.overlap * tile))))
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


def faded(cells: int, tile: int, shared: int) -> list[Span]:
    """Tiles of tile + shared cells, evenly spread, of which neighbours share `shared`."""
    size = min(cells, tile + shared)
    count = max(1, ceil((cells - shared) / tile))
    starts = [round(i * (cells - size) / max(1, count - 1)) for i in range(count)]
    ends = [start + shared for start in starts[1:]] + [cells]
    return [
        Span(start, start + size, start, end, (shared if i else 0, shared if i + 1 < count else 0))
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _ramp(steps: int) -> Tensor:
    return (torch.arange(steps) + 0.5) / max(1, steps)


class _Streams:
    """One stream a tile, all fed with the same pieces of a video."""

    def __init__(self, spans: Sequence[Sequence[Span]], run: Callable[[Iterable[Tensor]], Iterator[Tensor]]) -> None:
        self.tiles = list(product(*spans))
        self.feeds: list[list[Tensor]] = [[] for _ in self.tiles]
        self.streams = [run(_drain(feed)) for feed in self.feeds]

    def next(self, piece: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
        """The next piece of output.

        Args:
            piece: (B, C, T, H, W), all of the frame.
            before, after: rows and columns that a latent cell has in the input and in the output.
        """
        out: Tensor | None = None
        for (rows, columns), feed, stream in zip(self.tiles, self.feeds, self.streams, strict=True):
            feed.append(
                piece[..., _part(rows.start, rows.stop, before[0]), _part(columns.start, columns.stop, before[1])]
            )
            tile = next(stream)
            tile = tile[
                ...,
                _part(rows.low - rows.start, rows.high - rows.start, after[0]),
                _part(columns.low - columns.start, columns.high - columns.start, after[1]),
            ]
            if out is None:
                height, width = (piece.shape[3 + i] // before[i] * after[i] for i in (0, 1))
                out = tile.new_zeros(*tile.shape[:3], height, width)
            weight = rows.weight(after[0])[:, None] * columns.weight(after[1])
            place = (..., _part(rows.low, rows.high, after[0]), _part(columns.low, columns.high, after[1]))
            out[place] += tile * weight.to(tile)
        assert out is not None
        return out


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
