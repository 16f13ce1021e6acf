"""A cache of latents and of a frozen text encoder's features: safetensors shards, an index, no pickle.

A cache is a local folder: `cache.json` (what it was made by, hashes of the shards), `index.jsonl` (a line a clip),
`captions.jsonl` (a line a caption, the order of its features), and the shards. It gets its name when it is whole.
Shards are memory-mapped, so a cache may be larger than memory and workers share it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from kinema_core import Clip, ClipInfo, TextFeatures
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinema_data.files import BadClip

_FORMAT = 1
_FACTS, _INDEX, _CAPTIONS = "cache.json", "index.jsonl", "captions.jsonl"
_DTYPES = {"float16": torch.float16, "float32": torch.float32}
# A header of a few thousand tensors is read in milliseconds.
_MOST_TENSORS_A_SHARD = 4096


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


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of a `state_dict()`: equal for equal weights, wherever they lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class LatentWriter:
    """Writes a cache; a context manager. After an exception nothing is left, and an older cache is as it was.

    Args:
        folder: the cache to make.
        made_by: what the latents depend on, as JSON: hashes of the weights (`weights_hash`), their config, the data.
            `CachedLatents` refuses a cache made by something else.
        dtype: of the stored values: "float16" (|values| below 65504, relative error 5e-4) or "float32".
        shard_bytes: size of a shard.
        overwrite: replace a cache that is there.

    Raises:
        FileExistsError: the folder exists, and `overwrite` is not set.
        ValueError: an unknown dtype, values that are not finite in it, an id given twice, or no clips at all.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        made_by: Mapping[str, Any],
        dtype: str = "float16",
        shard_bytes: int = 64 * 2**20,
        overwrite: bool = False,
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype {dtype!r} has to be one of {', '.join(_DTYPES)}")
        self.folder = Path(folder)
        if self.folder.exists() and not overwrite:
            raise FileExistsError(f"{self.folder} exists; remove it, or write with overwrite=True")
        self._made_by = json.loads(json.dumps(made_by))
        self._dtype = _DTYPES[dtype]
        self._shard_bytes = shard_bytes
        self._temporary = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        self._ids: set[str] = set()
        self._captions: set[str] = set()

    def __enter__(self) -> Self:
        self._temporary.mkdir(parents=True)
        self._latents = _ShardWriter(self._temporary, "latents", self._shard_bytes)
        self._texts = _ShardWriter(self._temporary, "text", self._shard_bytes)
        self._index = (self._temporary / _INDEX).open("w", encoding="utf-8")
        self._caption_index = (self._temporary / _CAPTIONS).open("w", encoding="utf-8")
        return self

    def add(self, clip: Clip, latent: Tensor, *, cell_rate: float) -> None:
        """Store the latent (C, t, h, w) of a clip; of the clip all but the pixels is kept."""
        if clip.id in self._ids:
            raise ValueError(f"clip {clip.id!r} is in the cache already")
        row = {
            "id": clip.id,
            "shard": self._latents.add({str(len(self._ids)): self._stored(latent, f"clip {clip.id!r}")}),
            "grid": list(latent.shape[1:]),
            "cell_rate": cell_rate,
            "size": list(clip.video.shape[1:]),
            "frame_rate": clip.frame_rate,
            "captions": dict(clip.captions),
            "meta": dict(clip.meta),
        }
        self._index.write(json.dumps(row) + "\n")
        self._ids.add(clip.id)

    def add_text(self, captions: Sequence[str], streams: Sequence[TextFeatures]) -> None:
        """Store each text encoder's features of these captions; those already stored are passed over.

        Store the features of "" too: they are the unconditional ones.
        """
        for row, caption in enumerate(captions):
            if caption in self._captions:
                continue
            number = len(self._captions)
            tensors: dict[str, Tensor] = {}
            for stream, features in enumerate(streams):
                mask = features.mask[row].cpu()
                length = int(mask.nonzero().max()) + 1  # padding is not stored
                what = f"caption {caption!r}"
                tensors[f"{number}.{stream}.tokens"] = self._stored(features.tokens[row, :length], what)
                tensors[f"{number}.{stream}.mask"] = mask[:length].clone()
                if features.pooled is not None:
                    tensors[f"{number}.{stream}.pooled"] = self._stored(features.pooled[row], what)
            line = {"caption": caption, "shard": self._texts.add(tensors), "streams": len(streams)}
            self._caption_index.write(json.dumps(line) + "\n")
            self._captions.add(caption)

    def _stored(self, values: Tensor, what: str) -> Tensor:
        stored = values.detach().to("cpu", self._dtype, copy=True).contiguous()
        if not stored.isfinite().all():
            raise ValueError(f"{what}: values are not finite as {self._dtype}")
        return stored

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._index.close()
        self._caption_index.close()
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _finish(self) -> None:
        if not self._ids:
            raise ValueError(f"{self.folder}: a cache needs at least one clip")
        facts = {
            "format": _FORMAT,
            "made_by": self._made_by,
            "clips": len(self._ids),
            "captions": len(self._captions),
            "sha256": self._latents.finish() | self._texts.finish(),
        }
        (self._temporary / _FACTS).write_text(json.dumps(facts, indent=1))
        if self.folder.exists():
            aside = self._temporary.with_suffix(".old")
            os.replace(self.folder, aside)
            os.replace(self._temporary, self.folder)
            shutil.rmtree(aside)
        else:
            os.replace(self._temporary, self.folder)


class _ShardWriter:
    """Collects tensors and writes a file each time enough have come."""

    def __init__(self, folder: Path, kind: str, shard_bytes: int) -> None:
        self._folder, self._kind, self._shard_bytes = folder, kind, shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._bytes = 0
        self._hashes: dict[str, str] = {}

    def add(self, tensors: Mapping[str, Tensor]) -> str:
        """The name of the shard these tensors go to."""
        name = f"{self._kind}-{len(self._hashes):05d}.safetensors"
        self._pending |= tensors
        self._bytes += sum(tensor.nbytes for tensor in tensors.values())
        if self._bytes >= self._shard_bytes or len(self._pending) >= _MOST_TENSORS_A_SHARD:
            self._flush()
        return name

    def finish(self) -> dict[str, str]:
        """Write the rest; sha256 by shard."""
        if self._pending:
            self._flush()
        return self._hashes

    def _flush(self) -> None:
        path = self._folder / f"{self._kind}-{len(self._hashes):05d}.safetensors"
        save_file(self._pending, path)
        self._hashes[path.name] = _file_hash(path)
        self._pending, self._bytes = {}, 0


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
        if not (self.folder / _FACTS).is_file():
            raise FileNotFoundError(f"no cache of latents at {self.folder}: {_FACTS} is not there")
        facts = json.loads((self.folder / _FACTS).read_text())
        if facts["format"] != _FORMAT:
            raise ValueError(f"{self.folder} is of format {facts['format']}; this kinema-data reads {_FORMAT}")
        self.made_by: dict[str, Any] = facts["made_by"]
        differences = list(_differences(json.loads(json.dumps(expect or {})), self.made_by))
        if differences:
            raise ValueError(f"{self.folder} was made by something else: {'; '.join(differences)}. Encode again")
        self._hashes: dict[str, str] = facts["sha256"]
        self._verify = verify
        self._rows = _lines(self.folder / _INDEX)
        captions = _lines(self.folder / _CAPTIONS)
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
                if self._verify and _file_hash(path) != self._hashes[name]:
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


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
