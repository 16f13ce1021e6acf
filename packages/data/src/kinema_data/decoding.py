"""Reading clips from files that nobody vouches for: never hangs, opens no other file or host, takes bounded memory.

A file that cannot be used raises `BadClip`, whatever is wrong with it. Frames are uint8 (T, H, W, 3), RGB, turned as
the file says, and chosen by their time stamps, never by counting at an average rate.
"""

import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from kinema_data.files import DEFAULT_LIMITS, BadClip, Limits, Source, check_size, opened, shrunk_size
from kinema_data.images import is_image, opened_image, read_image
from kinema_data.video import EXACT, METADATA_TAG

#: Frames per second of what has no rate: images and videos of one frame without one.
DEFAULT_FRAME_RATE = 24.0
# A script (ffconcat, m3u8) or a picture named .mp4 must not be opened: FFmpeg would follow the first to other files.
_OPTIONS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm", "protocol_whitelist": "none"}
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_MATROSKA = b"\x1a\x45\xdf\xa3"


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """Frames (T, H, W, 3) uint8, frames per second, and the time (T,) of each frame in seconds from the first."""

    frames: Tensor
    frame_rate: float
    pts: Tensor


@dataclass(frozen=True)
class ClipSize:
    """Number of frames, height and width in pixels as displayed, and mean frames per second."""

    frames: int
    height: int
    width: int
    frame_rate: float


def read_clip(source: Source, *, max_pixels: int | None = None, limits: Limits = DEFAULT_LIMITS) -> DecodedClip:
    """Read all frames of a video, or an image as a video of one frame.

    Args:
        source: a path, or a seekable binary file object (its `name` tells images from videos).
        max_pixels: larger frames are shrunk, see `shrunk_size`.
        limits: what the file may cost.

    Raises:
        BadClip: the file cannot be used.
    """
    with opened(source) as (file, path):
        if is_image(path):
            return DecodedClip(read_image(file, path, max_pixels, limits), DEFAULT_FRAME_RATE, torch.zeros(1).double())
        with _video(file, path, limits) as (container, stream):
            convert = _Converter(path, max_pixels, limits)
            times, frames = [], []
            for moment, frame in _decoded(container, stream, path, limits):
                times.append(moment)
                frames.append(convert(frame))
            rate = _rate(times, stream, path)
            pts = torch.tensor([float(moment - times[0]) for moment in times], dtype=torch.float64)
            return DecodedClip(torch.from_numpy(np.stack(frames)), rate, pts)


def read_frames(
    source: Source, times: Sequence[float], *, max_pixels: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> Tensor:
    """Read the frames a video shows at these rising times, in seconds from its first frame: (len(times), H, W, 3).

    A frame counts as shown half a frame early, so that rounded time stamps choose no neighbour. Decoding starts at the
    last key frame before times[0] and stops at times[-1]. An image is shown at all times.

    Raises:
        BadClip: the file cannot be used, or ends before the last time.
    """
    with opened(source) as (file, path):
        if is_image(path):
            return read_image(file, path, max_pixels, limits).expand(len(times), -1, -1, -1)
        with _video(file, path, limits) as (container, stream):
            return torch.from_numpy(_shown_at(times, container, stream, path, max_pixels, limits))


def probe(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> ClipSize:
    """Read the sizes of a video or an image. Decodes one frame and counts the others by their packets.

    Raises:
        BadClip: the file cannot be used, as far as that shows.
    """
    with opened(source) as (file, path):
        if is_image(path):
            height, width = read_image(file, path, None, limits).shape[1:3]
            return ClipSize(1, height, width, DEFAULT_FRAME_RATE)
        with _video(file, path, limits) as (container, stream):
            size: tuple[int, int] | None = None
            times: list[Fraction] = []
            for packet in _packets(container, stream, path, limits):
                if packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts * stream.time_base)
                if size is None and (frames := _decode(packet, path)):
                    size = _Converter(path, None, limits)(frames[0]).shape[:2]
            if size is None:
                raise BadClip("no_frames", path, "no frame can be decoded")
            return ClipSize(len(times), *size, _rate(sorted(times), stream, path))


def read_metadata(source: Source) -> dict[str, Any]:
    """The metadata that `write_video` or `write_image` stored in a file; empty for files of others.

    Raises:
        BadClip: the file cannot be opened.
    """
    with opened(source) as (file, path):
        if is_image(path):
            with opened_image(file, path, DEFAULT_LIMITS) as image:
                text = image.info.get(METADATA_TAG, "")
        else:
            with _video(file, path, Limits(min_side=1)) as (container, _):
                text = container.metadata.get(METADATA_TAG, "")
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _video(file: BinaryIO, path: str, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    head = file.read(12)
    file.seek(0)
    if not head:
        raise BadClip("empty", path, "is empty")
    if head[4:8] not in _MP4_BOXES and not head.startswith(_MATROSKA):
        raise BadClip("wrong_container", path, "is no mp4, mov, mkv or webm file")
    try:
        container = av.open(file, options=_OPTIONS, metadata_errors="replace")
    except (FFmpegError, ValueError) as error:
        raise BadClip("unreadable", path, f"cannot be opened as video: {_reason(error)}") from error
    with container:
        stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
        if stream is None:
            raise BadClip("no_video", path, "holds no video stream")
        codec = stream.codec_context
        if codec is None:
            raise BadClip("unreadable", path, "is coded in a way this FFmpeg cannot decode")
        check_size(codec.height, codec.width, path, limits)
        codec.thread_count = 1
        yield container, stream


def _packets(
    container: InputContainer, stream: VideoStream, path: str, limits: Limits, whole: bool = True
) -> Iterator["Packet[VideoStream]"]:
    """All packets and the closing empty one; `whole`: fewer than the header promises are an error."""
    deadline = time.monotonic() + limits.seconds
    count = 0
    try:
        for packet in container.demux(stream):
            if time.monotonic() > deadline:
                raise BadClip("timeout", path, f"takes more than {limits.seconds} s to read")
            count += packet.size > 0
            yield packet
    except (FFmpegError, EOFError) as error:
        raise BadClip("corrupt", path, f"breaks off: {_reason(error)}") from error
    if whole and count < stream.frames:
        raise BadClip("truncated", path, f"holds {count} of the {stream.frames} frames its header promises")


def _decode(packet: "Packet[VideoStream]", path: str) -> list[VideoFrame]:
    try:
        frames = packet.decode()
    except (FFmpegError, EOFError) as error:
        raise BadClip("corrupt", path, f"cannot be decoded: {_reason(error)}") from error
    # FFmpeg conceals damage and only marks such frames.
    if any(frame.is_corrupt for frame in frames):
        raise BadClip("corrupt", path, "holds a corrupt frame")
    return frames


def _decoded(
    container: InputContainer, stream: VideoStream, path: str, limits: Limits, whole: bool = True
) -> Iterator[tuple[Fraction, VideoFrame]]:
    """(time in seconds, frame) with rising times."""
    last: Fraction | None = None
    for packet in _packets(container, stream, path, limits, whole):
        for frame in _decode(packet, path):
            if frame.pts is None or (last is not None and frame.pts * stream.time_base <= last):
                raise BadClip("bad_timestamps", path, "holds frames without rising time stamps")
            last = frame.pts * stream.time_base
            yield last, frame
    if last is None:
        raise BadClip("no_frames", path, "holds no frames")


def _shown_at(
    times: Sequence[float],
    container: InputContainer,
    stream: VideoStream,
    path: str,
    max_pixels: int | None,
    limits: Limits,
) -> NDArray[np.uint8]:
    first = (stream.start_time or 0) * stream.time_base
    if times[0] > 0:
        container.seek(int((first + Fraction(times[0])) / stream.time_base), stream=stream, backward=True)
    step = min((b - a for a, b in itertools.pairwise(times)), default=math.inf)
    early = min(step, 1 / float(stream.average_rate or DEFAULT_FRAME_RATE)) / 2
    convert = _Converter(path, max_pixels, limits)
    frames: list[NDArray[np.uint8]] = []
    shown: VideoFrame | None = None
    moment = 0.0
    for pts, frame in _decoded(container, stream, path, limits, whole=times[0] <= 0):
        moment = float(pts - first)
        # The frame before is shown until this one begins.
        while shown is not None and times[len(frames)] + early < moment:
            frames.append(convert(shown))
            if len(frames) == len(times):
                return np.stack(frames)
        shown = frame
    rest = len(times) - len(frames)
    if shown is None or times[-1] > moment + 1 / float(stream.average_rate or DEFAULT_FRAME_RATE) + early:
        raise BadClip("truncated", path, f"ends at {moment:.3f} s, before {times[-1]:.3f} s")
    return np.stack(frames + [convert(shown)] * rest)


class _Converter:
    """Frames to (H, W, 3) RGB as displayed, all of one size and within the limits."""

    def __init__(self, path: str, max_pixels: int | None, limits: Limits) -> None:
        self._path, self._max_pixels, self._limits = path, max_pixels, limits
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._bytes = 0

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        if self._size is None:
            check_size(frame.height, frame.width, self._path, self._limits)
            self._size = frame.height, frame.width
        elif self._size != (frame.height, frame.width):
            raise BadClip("size_changes", self._path, f"changes from {self._size} to {frame.height} x {frame.width}")
        height, width = shrunk_size(frame.height, frame.width, self._max_pixels)
        self._bytes += height * width * 3
        if self._bytes > self._limits.max_bytes:
            raise BadClip("too_large", self._path, f"takes more than {self._limits.max_bytes} bytes decoded")
        shrinks = (height, width) != self._size
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=_colour_space(frame),
            interpolation=EXACT & ~Interpolation.BILINEAR | Interpolation.BICUBIC if shrinks else EXACT,
            threads=1,
        ).to_ndarray()
        # Both count counter-clockwise.
        return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90))) if frame.rotation else rgb


def _colour_space(frame: VideoFrame) -> int:
    """The frame's, or what players take untagged files for: BT.709 from 720 lines on, BT.601 below."""
    unspecified = 2
    if frame.colorspace != unspecified:
        return frame.colorspace
    return Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601


def _rate(times: Sequence[Fraction], stream: VideoStream, path: str) -> float:
    """Mean frames per second: the header's where the time stamps bear it out, else theirs."""
    stated = float(stream.average_rate) if stream.average_rate else 0.0
    if len(times) < 2:
        return stated or DEFAULT_FRAME_RATE
    span = times[-1] - times[0]
    if span <= 0:
        raise BadClip("bad_timestamps", path, "all frames have the same time stamp")
    measured = float((len(times) - 1) / span)
    return stated if abs(stated - measured) < 0.01 * measured else measured


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
