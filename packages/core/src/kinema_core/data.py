"""What travels between components: clips, ragged batches of latents, text features and conditioning.

Letters: B clips, C channels, T H W frames, rows, columns in pixels, t h w in latents, N latent cells of all clips,
S text tokens, D width. All classes are frozen, have `.to()` and are pytrees.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils import _pytree as pytree

#: Latent frames per second at which one latent frame is one unit of `Ragged.positions`: 24 fps and stride 4.
UNIT_CELL_RATE = 6.0
_keep_dtype = {"keep_dtype": True}


class _Movable:
    """`.to()` for a dataclass of tensors: a dtype changes floating values only, never positions or masks."""

    def __init_subclass__(cls) -> None:
        pytree.register_pytree_node(cls, _flatten, lambda values, names: cls(**dict(zip(names, values, strict=True))))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy on `device`, floating values as `dtype` (None: as they are)."""

        def moved(keep: bool) -> Callable[[Tensor], Tensor]:
            return lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() and not keep else None)

        changed = {
            f.name: pytree.tree_map_only(Tensor, moved("keep_dtype" in f.metadata), getattr(self, f.name))
            for f in dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        }
        return type(self)(**changed)


def _flatten(data: Any) -> tuple[list[Any], tuple[str, ...]]:
    names = tuple(f.name for f in dataclasses.fields(data))
    return [getattr(data, name) for name in names], names


@dataclass(frozen=True, eq=False)
class Clip(_Movable):
    """A video, or an image as a video of one frame.

    Attributes:
        id: unique within its dataset; noise is seeded with it.
        video: (3, T, H, W) in [-1, 1].
        frame_rate: frames per second.
        captions: by kind, such as {"short": ..., "long": ...}.
        meta: whatever else is known: ground truth, actions, cameras.
    """

    id: str
    video: Tensor
    frame_rate: float = 24.0
    captions: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ragged(_Movable):
    """Latents of clips of many sizes, cell after cell in one tensor.

    Attributes:
        values: (N, C); the cells of clip 0 in the order (t, h, w), then those of clip 1, ...
        grids: (t, h, w) of each clip.
        positions: (N, 3) float: time, row, column. Rows and columns in cells; one unit of time is one latent frame
            at 24 fps and stride 4, and an image is at time 0.
        period: for each clip the length of its cyclic time axis in units of time, or None: positions p and p + period
            are the same moment.
    """

    values: Tensor
    grids: tuple[tuple[int, int, int], ...]
    positions: Tensor = field(metadata=_keep_dtype)
    period: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.period:
            object.__setattr__(self, "period", (None,) * len(self.grids))

    @classmethod
    def from_clips(
        cls,
        clips: Sequence[Tensor],
        cell_rates: Sequence[float] | None = None,
        period: Sequence[float | None] = (),
    ) -> "Ragged":
        """Pack latents (C, t, h, w) of any sizes.

        Args:
            clips: one tensor a clip, all with the same C.
            cell_rates: latent frames per second of each clip (frame rate / temporal stride); None: 6 for all.
            period: see the attribute.
        """
        if not clips:
            raise ValueError("a Ragged needs at least one clip")
        rates = cell_rates or [UNIT_CELL_RATE] * len(clips)
        return cls(
            torch.cat([z.flatten(1).T for z in clips]),
            tuple((z.shape[1], z.shape[2], z.shape[3]) for z in clips),
            torch.cat([_positions(z, rate) for z, rate in zip(clips, rates, strict=True)]),
            tuple(period),
        )

    def __len__(self) -> int:
        """The number of clips, B."""
        return len(self.grids)

    @property
    def lengths(self) -> list[int]:
        """Cells of each clip."""
        return [t * h * w for t, h, w in self.grids]

    def clips(self) -> list[Tensor]:
        """The latents as one (C, t, h, w) a clip: the inverse of `from_clips`."""
        parts = self.values.split(self.lengths)
        return [part.T.reshape(-1, *grid) for part, grid in zip(parts, self.grids, strict=True)]

    def per_cell(self, per_clip: Tensor) -> Tensor:
        """Repeat a value per clip (B, ...) for each of its cells: (N, ...)."""
        lengths = torch.tensor(self.lengths).to(per_clip.device, non_blocking=True)
        return per_clip.repeat_interleave(lengths, dim=0, output_size=sum(self.lengths))

    def mean_per_clip(self, per_cell: Tensor, where: Tensor) -> Tensor:
        """The mean of (N,) over each clip's cells where `where` (N,) is true: (B,); 0 for a clip without any.

        The others are left out by selection, so they may be infinite.
        """
        zero = per_cell.new_zeros(())
        sums = [part.sum() for part in torch.where(where, per_cell, zero).split(self.lengths)]
        counts = [part.sum().clamp(min=1) for part in where.split(self.lengths)]
        return torch.stack(sums) / torch.stack(counts)

    def replace(self, values: Tensor) -> "Ragged":
        """The same cells with other values (N, any)."""
        return dataclasses.replace(self, values=values)

    @staticmethod
    def cat(parts: Iterable["Ragged"]) -> "Ragged":
        """All clips of `parts` in one."""
        parts = list(parts)
        return Ragged(
            torch.cat([part.values for part in parts]),
            tuple(grid for part in parts for grid in part.grids),
            torch.cat([part.positions for part in parts]),
            tuple(period for part in parts for period in part.period),
        )

    def split(self) -> "list[Ragged]":
        """One `Ragged` a clip: the inverse of `cat`."""
        parts = zip(
            self.values.split(self.lengths), self.grids, self.positions.split(self.lengths), self.period, strict=True
        )
        return [Ragged(values, (grid,), positions, (period,)) for values, grid, positions, period in parts]


def _positions(z: Tensor, cell_rate: float) -> Tensor:
    time, row, column = (torch.arange(n, dtype=torch.float32, device=z.device) for n in z.shape[1:])
    return torch.cartesian_prod(time * (UNIT_CELL_RATE / cell_rate), row, column)


@dataclass(frozen=True, eq=False)
class TextFeatures(_Movable):
    """One text encoder's features of B captions. The unconditional features are those of the encoded "".

    Attributes:
        tokens: (B, S, D).
        mask: (B, S) bool, True for real tokens; at least one in each row.
        pooled: (B, P), or None.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor | None = None

    def __getitem__(self, index: Any) -> "TextFeatures":
        """The features of some captions: a slice, a list or an index tensor over B."""
        return TextFeatures(self.tokens[index], self.mask[index], None if self.pooled is None else self.pooled[index])

    @staticmethod
    def cat(parts: Sequence["TextFeatures"]) -> "TextFeatures":
        """All captions of `parts` in one, padded to the longest S."""
        length = max(part.tokens.shape[1] for part in parts)
        pooled = [part.pooled for part in parts if part.pooled is not None]
        if pooled and len(pooled) != len(parts):
            raise ValueError("cannot join text features with and without pooled features")
        return TextFeatures(
            torch.cat([pad(part.tokens, (0, 0, 0, length - part.tokens.shape[1])) for part in parts]),
            torch.cat([pad(part.mask, (0, length - part.mask.shape[1])) for part in parts]),
            torch.cat(pooled) if pooled else None,
        )


@dataclass(frozen=True, eq=False)
class Conditioning(_Movable):
    """What a clip is generated from.

    Attributes:
        text: one `TextFeatures` a text encoder (the streams), each over the same B clips.
        cells: features per latent cell by name: {name: (N, F)} (actions, cameras, ...).
        clips: features per clip by name: {name: (B, F)}.
    """

    text: tuple[TextFeatures, ...] = ()
    cells: Mapping[str, Tensor] = field(default_factory=dict)
    clips: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """The conditioning of all clips of `parts` in one, text padded to the longest.

        Raises:
            ValueError: the parts have not the same streams and names.
        """
        first = parts[0]
        if any(p.cells.keys() != first.cells.keys() or p.clips.keys() != first.clips.keys() for p in parts):
            names = [sorted([*part.cells, *part.clips]) for part in parts]
            raise ValueError(f"cannot join conditioning of different names: {names}")
        return Conditioning(
            tuple(TextFeatures.cat(streams) for streams in zip(*(part.text for part in parts), strict=True)),
            {name: torch.cat([part.cells[name] for part in parts]) for name in first.cells},
            {name: torch.cat([part.clips[name] for part in parts]) for name in first.clips},
        )

    def split(self, lengths: Sequence[int]) -> "list[Conditioning]":
        """One `Conditioning` a clip, of clips of so many cells: the inverse of `cat`, but that text stays padded."""
        cells = {name: features.split(list(lengths)) for name, features in self.cells.items()}
        return [
            Conditioning(
                tuple(stream[i : i + 1] for stream in self.text),
                {name: parts[i] for name, parts in cells.items()},
                {name: features[i : i + 1] for name, features in self.clips.items()},
            )
            for i in range(len(lengths))
        ]
