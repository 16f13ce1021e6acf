"""The dataset `manifest`: a folder of clips with one line a clip in `manifest.jsonl` or `manifest.parquet`.

Sizes that the manifest lacks are probed once and kept beside it, since token budgets need them before decoding.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from kinema_core import Clip, ClipDataset, ClipInfo

from kinema_data.decoding import ClipSize, probe, read_frames
from kinema_data.files import BadClip, Source, shrunk_size
from kinema_data.manifest_file import Entry, find_manifest, read_manifest
from kinema_data.video import to_float

#: Probed sizes, beside the manifest. Delete it after replacing files.
SIZES_FILE = "manifest.sizes.json"

logger = logging.getLogger(__name__)


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
        self._manifest = find_manifest(str(path))
        self._folder = self._manifest.rpartition("/")[0]
        self._max_pixels = max_pixels
        entries = read_manifest(self._manifest)
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

    def _sized(self, entries: list[Entry]) -> list[Entry]:
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


def _with_caption(entry: Entry, kind: str, manifest: str) -> Entry:
    if kind not in entry.captions:
        raise ValueError(f"{manifest}: clip {entry.id!r} has no {kind!r} caption, only {_listed(entry.captions)}")
    return replace(entry, captions={kind: entry.captions[kind]})


def _windows(number: int, entry: Entry, max_frames: int | None, frame_stride: int) -> Iterator[_Item]:
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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
