"""A folder of clips with a manifest: one line a clip, in `manifest.jsonl` or `manifest.parquet`.

A line holds `path` (relative to the manifest), `captions` ({kind: text}) or `caption`, and, where known, `id` (else the
path), `frames`, `height`, `width`, `frame_rate`, `split` and `meta`. Sizes that are missing are probed once and kept
beside the manifest, since token budgets need them before anything is decoded.
"""

import io
import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from kinema_core import Clip, ClipDataset, ClipInfo

from kinema_data.decoding import ClipSize, probe, read_frames
from kinema_data.files import BadClip, Source, shrunk_size
from kinema_data.video import to_float

#: Probed sizes, beside the manifest. Delete it after replacing files.
SIZES_FILE = "manifest.sizes.json"
_NAMES = ("manifest.jsonl", "manifest.parquet")
_MOST_ERRORS_SHOWN = 20
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
# A clip of one caption has it under this kind.
_ONLY_CAPTION = "caption"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    id: str
    path: str
    captions: Mapping[str, str]
    split: str | None
    meta: Mapping[str, Any]
    size: ClipSize | None


@dataclass(frozen=True)
class _Item:
    """A clip of the dataset: frames [start, start + size.frames) of an entry."""

    id: str
    entry: int
    start: int
    size: ClipSize


class ManifestDataset(ClipDataset):
    """Clips of a manifest, at their own duration, size and aspect ratio.

    Args:
        path: the folder, or the manifest itself; local, or an fsspec URL such as s3://bucket/clips.
        split: take only lines with this `split`; None: all.
        caption: the kind of caption to use; "any": all kinds stay in `Clip.captions`, `info` tells the first.
        max_frames: longer videos become several clips of this many frames, `id#0`, `id#1`, ...; what is left at the
            end is not used. None: videos stay whole.
        frame_stride: cut clips to 1 + frame_stride * n frames, as a VAE of this temporal stride needs.
        max_pixels: larger frames are shrunk to this area (height x width), aspect kept, sides multiples of 16.

    Attributes:
        rejected: files left out because their size was not known and could not be probed.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: wrong lines (with their numbers, at most 20), no clips, an unknown split or caption kind.
        BadClip: from indexing only: the file is missing, broken, or not what the manifest says.
    """

    def __init__(
        self,
        path: str,
        *,
        split: str | None = None,
        caption: str = "any",
        max_frames: int | None = None,
        frame_stride: int = 1,
        max_pixels: int | None = None,
    ) -> None:
        if frame_stride < 1 or (max_frames is not None and max_frames < 1):
            raise ValueError(f"frame_stride {frame_stride} and max_frames {max_frames} have to be at least 1")
        self._manifest = _find(str(path))
        self._folder = self._manifest.rpartition("/")[0]
        self._max_pixels = max_pixels
        entries = _read_manifest(self._manifest)
        if split is not None:
            known = sorted({e.split for e in entries if e.split is not None})
            entries = [entry for entry in entries if entry.split == split]
            if not entries:
                raise ValueError(f"{self._manifest}: no clip is of split {split!r}; there are {_listed(known)}")
        if caption != "any":
            entries = [_with_caption(entry, caption, self._manifest) for entry in entries]
        self.rejected: list[BadClip] = []
        self._entries = self._sized(entries)
        self._items = [
            item
            for number, entry in enumerate(self._entries)
            for item in _windows(number, entry, max_frames, frame_stride)
        ]
        if not self._items:
            raise ValueError(f"{self._manifest}: none of the {len(entries)} clips can be read: {self.rejected[0]}")

    def __len__(self) -> int:
        return len(self._items)

    def info(self, index: int) -> ClipInfo:
        item = self._items[index]
        height, width = shrunk_size(item.size.height, item.size.width, self._max_pixels)
        caption = next(iter(self._entries[item.entry].captions.values()))
        return ClipInfo(item.id, item.size.frames, height, width, item.size.frame_rate, caption)

    def __getitem__(self, index: int) -> Clip:
        item, info = self._items[index], self.info(index)
        entry = self._entries[item.entry]
        times = [(item.start + k) / info.frame_rate for k in range(info.frames)]
        frames = read_frames(self._source(entry.path), times, max_pixels=self._max_pixels)
        if frames.shape[1:3] != (info.height, info.width):
            found = " x ".join(map(str, frames.shape[1:3]))
            raise BadClip(
                "size_mismatch",
                entry.path,
                f"is {found}, not {info.height} x {info.width} as the manifest or {SIZES_FILE} says",
            )
        return Clip(item.id, to_float(frames), info.frame_rate, entry.captions, entry.meta)

    def _source(self, path: str) -> Source:
        """What to read a clip from: the path of a local file, the whole content of a remote one."""
        filesystem, folder = url_to_fs(self._folder)
        full = f"{folder}/{path}"
        if isinstance(filesystem, LocalFileSystem):
            return full
        try:
            content = io.BytesIO(filesystem.cat_file(full))
        except FileNotFoundError as error:
            raise BadClip("missing", full, "does not exist") from error
        except OSError as error:
            raise BadClip("unreadable", full, str(error)) from error
        content.name = path
        return content

    def _sized(self, entries: list[_Entry]) -> list[_Entry]:
        """All entries with sizes, probed where neither manifest nor cache has them."""
        unknown = [entry.path for entry in entries if entry.size is None]
        if not unknown:
            return entries
        cache_file = f"{self._folder}/{SIZES_FILE}"
        sizes = _read_sizes(cache_file)
        new = [path for path in unknown if path not in sizes]
        if new:
            logger.info("probing the sizes of %d clips in %s", len(new), self._folder)
            with ThreadPoolExecutor(8) as pool:
                probed = dict(zip(new, pool.map(self._probed, new), strict=True))
            self.rejected = [result for result in probed.values() if isinstance(result, BadClip)]
            sizes |= {path: result for path, result in probed.items() if isinstance(result, ClipSize)}
            _write_sizes(cache_file, sizes)
        if self.rejected:
            warnings.warn(
                f"{self._manifest}: left out {len(self.rejected)} clips that cannot be read, such as "
                f"{self.rejected[0]}",
                stacklevel=4,
            )
        sized = [entry if entry.size else replace(entry, size=sizes.get(entry.path)) for entry in entries]
        return [entry for entry in sized if entry.size is not None]

    def _probed(self, path: str) -> ClipSize | BadClip:
        try:
            return probe(self._source(path))
        except BadClip as error:
            return error


def _find(path: str) -> str:
    if path.endswith((".jsonl", ".parquet")):
        path = path if "/" in path else f"./{path}"
        candidates = [path]
    else:
        candidates = [f"{path.rstrip('/')}/{name}" for name in _NAMES]
    for candidate in candidates:
        filesystem, inner = url_to_fs(candidate)
        if filesystem.isfile(inner):
            return candidate
    raise FileNotFoundError(f"no manifest at {' or '.join(candidates)}: one line a clip with path and caption")


def _read_manifest(manifest: str) -> list[_Entry]:
    """All lines, checked.

    Raises:
        ValueError: listing the wrong lines.
    """
    rows = _parquet_rows if manifest.endswith(".parquet") else _json_rows
    entries: list[_Entry] = []
    errors: list[str] = []
    lines: dict[str, int] = {}
    for number, row in rows(manifest):
        try:
            entry = _entry(row())
            if entry.id in lines:
                raise ValueError(f"id {entry.id!r} is that of line {lines[entry.id]} already")
            lines[entry.id] = number
            entries.append(entry)
        except ValueError as error:
            errors.append(f"line {number}: {error}")
    if errors:
        shown = errors[:_MOST_ERRORS_SHOWN]
        more = [f"and {len(errors) - len(shown)} more"] if len(errors) > len(shown) else []
        raise ValueError(f"{manifest}: {len(errors)} wrong lines:\n  " + "\n  ".join(shown + more))
    if not entries:
        raise ValueError(f"{manifest} holds no clips")
    return entries


def _json_rows(manifest: str) -> Iterator[tuple[int, Callable[[], Any]]]:
    with fsspec.open(manifest, "rb") as file:
        for number, line in enumerate(file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            if line.strip():
                yield number, lambda line=line: _json(line)


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from error


def _parquet_rows(manifest: str) -> Iterator[tuple[int, Callable[[], Any]]]:
    import pyarrow as pa  # noqa: PLC0415  heavy, and needed for this form only
    from pyarrow import parquet  # noqa: PLC0415

    with fsspec.open(manifest, "rb") as file:
        try:
            rows = parquet.read_table(file).to_pylist(maps_as_pydicts="lossy")
        except pa.ArrowException as error:
            raise ValueError(f"{manifest} is no parquet file: {error}") from error
    for number, row in enumerate(rows, 1):
        known = {key: value for key, value in row.items() if value is not None}
        for key in ("captions", "meta"):  # a struct has every row's fields
            if isinstance(known.get(key), dict):
                known[key] = {kind: value for kind, value in known[key].items() if value is not None}
        yield number, lambda known=known: known


def _entry(row: Any) -> _Entry:
    if not isinstance(row, dict):
        raise ValueError(f"is {type(row).__name__}, not an object with path and caption")
    path = _text(row, "path")
    _check_path(path)
    if "captions" in row:
        captions = row["captions"]
        if not isinstance(captions, dict) or not captions:
            raise ValueError(f"captions has to be an object such as {{'short': '...'}}, not {captions!r}")
        captions = {kind: _text(captions, kind, "the caption") for kind in captions}
    elif "caption" in row:
        captions = {_ONLY_CAPTION: _text(row, "caption")}
    else:
        raise ValueError("has no caption")
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise ValueError(f"meta has to be an object, not {meta!r}")
    return _Entry(
        id=_text(row, "id") if "id" in row else path,
        path=path,
        captions=captions,
        split=_text(row, "split") if "split" in row else None,
        meta=meta,
        size=_size(row),
    )


def _text(row: Mapping[str, Any], key: str, what: str = "") -> str:
    value = row.get(key)
    if value is None:
        raise ValueError(f"has no {key}")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} {key} has to be a text that is not empty, not {value!r}".lstrip())
    return value


def _size(row: Mapping[str, Any]) -> ClipSize | None:
    for key in ("frames", "height", "width"):
        value = row.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{key} has to be a whole number from 1 on, not {value!r}")
    rate = row.get("frame_rate")
    if rate is not None and (
        not isinstance(rate, int | float) or isinstance(rate, bool) or not math.isfinite(rate) or rate <= 0
    ):
        raise ValueError(f"frame_rate has to be a positive number, not {rate!r}")
    known = [row.get(key) for key in ("frames", "height", "width", "frame_rate")]
    if any(value is None for value in known):
        return None
    return ClipSize(known[0], known[1], known[2], float(known[3]))


def _check_path(path: str) -> None:
    """Refuse what leads out of the manifest's folder or to another protocol."""
    if path.startswith(("/", "~")) or "\\" in path or "\0" in path or "::" in path or _SCHEME.match(path):
        raise ValueError(f"path has to be relative to the manifest, not {path!r}")
    if ".." in PurePosixPath(path).parts:
        raise ValueError(f"path must not lead out of the manifest's folder: {path!r}")


def _with_caption(entry: _Entry, kind: str, manifest: str) -> _Entry:
    if kind not in entry.captions:
        raise ValueError(f"{manifest}: clip {entry.id!r} has no {kind!r} caption, only {_listed(entry.captions)}")
    return replace(entry, captions={kind: entry.captions[kind]})


def _windows(number: int, entry: _Entry, max_frames: int | None, frame_stride: int) -> Iterator[_Item]:
    size = entry.size
    if size is None:
        return
    longest = size.frames if max_frames is None else min(max_frames, size.frames)
    frames = longest - (longest - 1) % frame_stride
    count = 1 if max_frames is None else max(1, size.frames // max_frames)
    for k in range(count):
        name = entry.id if count == 1 else f"{entry.id}#{k}"
        yield _Item(name, number, k * longest, replace(size, frames=frames))


def _read_sizes(file: str) -> dict[str, ClipSize]:
    filesystem, inner = url_to_fs(file)
    try:
        return {path: ClipSize(*size) for path, size in json.loads(filesystem.cat_file(inner)).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        warnings.warn(f"{file} is damaged; its sizes are probed again", stacklevel=5)
        return {}


def _write_sizes(file: str, sizes: Mapping[str, ClipSize]) -> None:
    filesystem, inner = url_to_fs(file)
    table = {path: [s.frames, s.height, s.width, s.frame_rate] for path, s in sorted(sizes.items())}
    try:
        filesystem.pipe_file(f"{inner}.tmp", json.dumps(table).encode())
        filesystem.mv(f"{inner}.tmp", inner)
    except OSError as error:
        warnings.warn(f"cannot keep probed sizes in {file}: {error}", stacklevel=5)


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
