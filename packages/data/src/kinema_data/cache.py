"""Reading a cache of latents and of a frozen text encoder's features; see `cache_writer` for what is in it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from kinema_core import ClipInfo, TextFeatures
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kinema_data.cache_writer import CAPTIONS, FACTS, FORMAT, INDEX, file_hash
from kinema_data.files import BadClip


@dataclass(frozen=True, eq=False)
class LatentClip:
    """A clip in latent space.

    Attributes:
        id: of the clip.
        latent: (C, t, h, w) float32.
        cell_rate: latent frames per second.
        size: (T, H, W) of the clip in pixels.
        frame_rate: of the clip.
        captions: by kind.
        meta: of the clip.
    """

    id: str
    latent: Tensor
    cell_rate: float
    size: tuple[int, int, int]
    frame_rate: float
    captions: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LatentClip":
        """A copy with the latent on `device` as `dtype` (None: as it is)."""
        return replace(self, latent=self.latent.to(device=device, dtype=dtype))


class CachedLatents:
    """Reads a cache; map-style: `cached[i]` is a `LatentClip`, and `info` serves token budgets as a dataset's does.

    Args:
        folder: the cache.
        expect: what it has to be made by; parts of `made_by` that are not named here may be anything.
        verify: check each shard's hash when it is first used.

    Attributes:
        made_by: as the writer was given it.

    Raises:
        FileNotFoundError: there is no whole cache.
        ValueError: it was made by something else, or in a newer format.
        BadClip: from indexing only: a shard is damaged.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, expect: Mapping[str, Any] | None = None, verify: bool = True
    ) -> None:
        self.folder = Path(folder)
        if not (self.folder / FACTS).is_file():
            raise FileNotFoundError(f"no cache of latents at {self.folder}: {FACTS} is not there")
        facts = json.loads((self.folder / FACTS).read_text())
        if facts["format"] != FORMAT:
            raise ValueError(f"{self.folder} is of format {facts['format']}; this kinema-data reads {FORMAT}")
        self.made_by: dict[str, Any] = facts["made_by"]
        differences = list(_differences(json.loads(json.dumps(expect or {})), self.made_by))
        if differences:
            raise ValueError(f"{self.folder} was made by something else: {'; '.join(differences)}. Encode again")
        self._hashes: dict[str, str] = facts["sha256"]
        self._verify = verify
        self._rows = _lines(self.folder / INDEX)
        captions = _lines(self.folder / CAPTIONS)
        self._caption_rows = {line["caption"]: (number, line) for number, line in enumerate(captions)}
        self._shards: dict[str, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def info(self, index: int) -> ClipInfo:
        """Sizes of the clip in pixels and its first caption."""
        row = self._rows[index]
        caption = next(iter(row["captions"].values()), "")
        return ClipInfo(row["id"], *row["size"], row["frame_rate"], caption)

    def grid(self, index: int) -> tuple[int, int, int]:
        """(t, h, w) of a latent, without reading it."""
        t, h, w = self._rows[index]["grid"]
        return t, h, w

    def __getitem__(self, index: int) -> LatentClip:
        row = self._rows[index]
        return LatentClip(
            row["id"],
            self._shard(row["shard"])[str(range(len(self._rows))[index])].float(),
            row["cell_rate"],
            tuple(row["size"]),
            row["frame_rate"],
            row["captions"],
            row["meta"],
        )

    def has_text(self, caption: str) -> bool:
        """Whether the features of this caption are stored."""
        return caption in self._caption_rows

    def text(self, captions: Sequence[str]) -> tuple[TextFeatures, ...]:
        """The stored features of these captions as float32, one `TextFeatures` a text encoder.

        Raises:
            KeyError: one was not stored.
        """
        streams = zip(*map(self._text, captions), strict=True)
        return tuple(TextFeatures.cat(stream) for stream in streams)

    def _text(self, caption: str) -> list[TextFeatures]:
        if caption not in self._caption_rows:
            raise KeyError(f"{self.folder} holds no features of the caption {caption!r}")
        number, line = self._caption_rows[caption]
        shard = self._shard(line["shard"])
        streams: list[TextFeatures] = []
        for stream in range(line["streams"]):
            name = f"{number}.{stream}"
            pooled = shard.get(f"{name}.pooled")
            streams.append(
                TextFeatures(
                    shard[f"{name}.tokens"].float()[None],
                    shard[f"{name}.mask"][None],
                    None if pooled is None else pooled.float()[None],
                )
            )
        return streams

    def _shard(self, name: str) -> dict[str, Tensor]:
        if name not in self._shards:
            path = self.folder / name
            try:
                if self._verify and file_hash(path) != self._hashes[name]:
                    raise BadClip("corrupt", str(path), "differs from what was written; encode again")
                self._shards[name] = load_file(path)
            except FileNotFoundError as error:
                raise BadClip("missing", str(path), "does not exist") from error
            except (OSError, SafetensorError) as error:
                raise BadClip("corrupt", str(path), str(error)) from error
        return self._shards[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}  # a worker maps the files itself


def _differences(expected: Any, found: Any, where: str = "") -> list[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            line
            for key, value in expected.items()
            for line in _differences(value, found.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if expected == found else [f"{where} is {_short(found)}, not {_short(expected)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
