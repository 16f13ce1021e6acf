"""What a file from outside may be and cost, and how one is opened without waiting for ever."""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# Sizes are shrunk to multiples of this, so that few distinct ones arise.
_SHRUNK_MULTIPLE = 16

Source = str | os.PathLike[str] | BinaryIO


class BadClip(ValueError):  # noqa: N818  it is the clip that is bad
    """A file that cannot be used.

    Attributes:
        code: missing, not_regular, empty, wrong_container, unreadable, no_video, no_frames, too_small, too_large,
            corrupt, truncated, bad_timestamps, size_changes, timeout or size_mismatch.
        path: the file.
    """

    def __init__(self, code: str, path: str, detail: str) -> None:
        super().__init__(code, path, detail)
        self.code = code
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail} ({self.code})"


@dataclass(frozen=True)
class Limits:
    """What a file may cost.

    Attributes:
        min_side: least height and width in pixels.
        max_pixels: most pixels a frame, checked on the header before anything is decoded.
        max_bytes: most bytes of decoded frames.
        seconds: most seconds of decoding. Checked between frames.
    """

    min_side: int = 8
    max_pixels: int = 2**24
    max_bytes: int = 2**30
    seconds: float = 20.0


DEFAULT_LIMITS = Limits()


def check_size(height: int, width: int, path: str, limits: Limits) -> None:
    if min(height, width) < limits.min_side:
        raise BadClip("too_small", path, f"is {height} x {width}; sides start at {limits.min_side}")
    if height * width > limits.max_pixels:
        raise BadClip("too_large", path, f"is {height} x {width}; a frame may have {limits.max_pixels} pixels")


def shrunk_size(height: int, width: int, max_pixels: int | None) -> tuple[int, int]:
    """The size a frame is read at: itself up to `max_pixels`, else of that area, same shape, multiples of 16."""
    if max_pixels is None or height * width <= max_pixels:
        return height, width
    scale = math.sqrt(max_pixels / (height * width))
    h, w = (max(1, int(side * scale / _SHRUNK_MULTIPLE)) * _SHRUNK_MULTIPLE for side in (height, width))
    return h, w


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, str]]:
    """A regular, non-empty file and its name. Asked before opening: a pipe would wait for ever."""
    if not isinstance(source, str | os.PathLike):
        yield source, str(getattr(source, "name", "<file object>"))
        return
    path = Path(source)
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        file = path.open("rb") if regular else None
    except FileNotFoundError as error:
        raise BadClip("missing", str(path), "does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadClip("unreadable", str(path), str(error)) from error
    if file is None:
        raise BadClip("not_regular", str(path), "is no regular file")
    with file:
        yield file, str(path)
