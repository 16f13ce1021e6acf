"""Reading a manifest: one line a clip, in `manifest.jsonl` or `manifest.parquet`.

A line holds `path` (relative to the manifest), `captions` ({kind: text}) or `caption`, and, where known, `id` (else the
path), `frames`, `height`, `width`, `frame_rate`, `split` and `meta`. Other keys are left alone.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from kinema_data.decoding import ClipSize

_NAMES = ("manifest.jsonl", "manifest.parquet")
_MOST_ERRORS_SHOWN = 20
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
# A clip of one caption has it under this kind.
_ONLY_CAPTION = "caption"


@dataclass(frozen=True)
class Entry:
    """A line: a file with its captions, and its size where the line states it."""

    id: str
    path: str
    captions: Mapping[str, str]
    split: str | None
    meta: Mapping[str, Any]
    size: ClipSize | None


def find_manifest(path: str) -> str:
    """The manifest at `path`, itself or in this folder.

    Raises:
        FileNotFoundError: there is none.
    """
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


def read_manifest(manifest: str) -> list[Entry]:
    """All lines, checked.

    Raises:
        ValueError: listing the wrong lines.
    """
    rows = _parquet_rows if manifest.endswith(".parquet") else _json_rows
    entries: list[Entry] = []
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


def _entry(row: Any) -> Entry:
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
    return Entry(
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
    if rate is None or any(row.get(key) is None for key in ("frames", "height", "width")):
        return None
    return ClipSize(row["frames"], row["height"], row["width"], float(rate))


def _check_path(path: str) -> None:
    """Refuse what leads out of the manifest's folder or to another protocol."""
    if path.startswith(("/", "~")) or "\\" in path or "\0" in path or "::" in path or _SCHEME.match(path):
        raise ValueError(f"path has to be relative to the manifest, not {path!r}")
    if ".." in PurePosixPath(path).parts:
        raise ValueError(f"path must not lead out of the manifest's folder: {path!r}")
