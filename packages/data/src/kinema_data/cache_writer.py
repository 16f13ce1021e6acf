"""Writing a cache of latents and of a frozen text encoder's features: safetensors shards, an index, no pickle.

A cache is a local folder: `cache.json` (what it was made by, hashes of the shards), `index.jsonl` (a line a clip),
`captions.jsonl` (a line a caption, the order of its features), and the shards. It gets its name when it is whole.
Shards are memory-mapped when read, so a cache may be larger than memory and workers share it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from kinema_core import Clip, TextFeatures
from safetensors.torch import save_file
from torch import Tensor

FORMAT = 1
FACTS, INDEX, CAPTIONS = "cache.json", "index.jsonl", "captions.jsonl"
_DTYPES = {"float16": torch.float16, "float32": torch.float32}
# A header of a few thousand tensors is read in milliseconds.
_MOST_TENSORS_A_SHARD = 4096


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LatentWriter:
    """Writes a cache; a context manager. After an exception nothing is left, and an older cache is as it was.

    Args:
        folder: the cache to make.
        made_by: what the latents depend on, as JSON: hashes of the weights (`kinema_core.weights_hash`), their
            config, the data.
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
        self._index = (self._temporary / INDEX).open("w", encoding="utf-8")
        self._caption_index = (self._temporary / CAPTIONS).open("w", encoding="utf-8")
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
            "format": FORMAT,
            "made_by": self._made_by,
            "clips": len(self._ids),
            "captions": len(self._captions),
            "sha256": self._latents.finish() | self._texts.finish(),
        }
        (self._temporary / FACTS).write_text(json.dumps(facts, indent=1))
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
        self._hashes[path.name] = file_hash(path)
        self._pending, self._bytes = {}, 0
