"""Writing clips: mp4 for videos, png for images, and the way between [-1, 1] and uint8.

Frames are uint8 (T, H, W, 3), RGB. Files appear under their name only when they are whole.
"""

import json
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

#: The tag of mp4 and png files that holds our metadata as one JSON object.
METADATA_TAG = "comment"
#: swscale's exact arithmetic; its default loses about one grey level.
EXACT = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
#: Short side that previews reach: less shows as a postage stamp, and some players refuse it.
PREVIEW_SIDE = 256
# Random access has to decode from the last key frame.
_KEY_FRAME_EVERY = 24
_LARGEST_RATE_DENOMINATOR = 1001  # 30000/1001 and its like stay exact


def to_uint8(video: Tensor) -> Tensor:
    """A video (..., 3, T, H, W) in [-1, 1] -> frames (..., T, H, W, 3) uint8: rounded, clipped where out of range."""
    return video.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).movedim(-4, -1).contiguous()


def to_float(frames: Tensor) -> Tensor:
    """Frames (..., T, H, W, 3) uint8 -> a video (..., 3, T, H, W) in [-1, 1], float32: the inverse of `to_uint8`."""
    return frames.movedim(-1, -4).to(torch.float32).div_(127.5).sub_(1).contiguous()


def enlarge(frames: Tensor, min_side: int) -> Tensor:
    """Repeat pixels of frames (..., H, W, 3) by the smallest whole factor that makes the short side >= `min_side`."""
    factor = -(-min_side // min(frames.shape[-3:-1]))
    return frames.repeat_interleave(factor, -3).repeat_interleave(factor, -2) if factor > 1 else frames


def unenlarged(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames (..., H, W, 3) uint8 of a preview (`VideoWriter.preview`) of `height` x `width`, at that size again.

    Frames of any other size are no such preview, and come back as they are.
    """
    factor = max(1, -(-PREVIEW_SIDE // min(height, width)))
    rows, columns = height * factor, width * factor
    if tuple(frames.shape[-3:-1]) != (rows + rows % 2, columns + columns % 2):
        return frames
    blocks = frames[..., :rows, :columns, :].unflatten(-2, (width, factor)).unflatten(-4, (height, factor))
    return blocks.float().mean((-4, -2)).round().to(torch.uint8)


class VideoWriter:
    """An H.264 mp4 written chunk by chunk, as frames are decoded. A context manager.

        with VideoWriter("out.mp4", 24) as writer:
            for chunk in chunks:  # uint8 (n, H, W, 3)
                writer.write(chunk)

    The file gets its name when the block ends well; after an exception nothing is left. The index lies in front
    (faststart), so that a browser plays while it loads.

    Args:
        path: where to; its directory is made.
        frame_rate: frames per second.
        pixel_format: yuv444p keeps the colours of small objects (47 dB at crf 12); yuv420p plays everywhere and needs
            even sizes (odd ones get their last row or column twice).
        crf: x264's constant rate factor, 0 (lossless) to 51.
        min_side: frames whose short side is below are enlarged by a whole factor.
        metadata: any JSON object, kept in the file; `read_metadata` returns it.

    Raises:
        ValueError: a frame rate that is not positive, no frames at all, or frames of another size than the first.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        frame_rate: float,
        *,
        pixel_format: str = "yuv444p",
        crf: int = 12,
        min_side: int = 1,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if not frame_rate > 0:
            raise ValueError(f"a frame rate of {frame_rate} is not positive")
        self.path = Path(path)
        self._rate = Fraction(frame_rate).limit_denominator(_LARGEST_RATE_DENOMINATOR)
        self._pixel_format = pixel_format
        self._crf = crf
        self._min_side = min_side
        self._comment = None if metadata is None else json.dumps(metadata)
        self._size: tuple[int, ...] | None = None
        self._reformatter = VideoReformatter()

    @classmethod
    def preview(
        cls, path: str | os.PathLike[str], frame_rate: float, *, metadata: Mapping[str, Any] | None = None
    ) -> "VideoWriter":
        """A writer for files that every player shows: yuv420p, even sizes, small ones enlarged by a whole factor."""
        return cls(path, frame_rate, pixel_format="yuv420p", crf=17, min_side=PREVIEW_SIDE, metadata=metadata)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = _temporary(self.path)
        # The "file:" in front keeps FFmpeg from reading a protocol out of a name with a colon.
        self._container = av.open(f"file:{self._temporary}", "w", format="mp4", options={"movflags": "+faststart"})
        if self._comment is not None:
            self._container.metadata[METADATA_TAG] = self._comment
        return self

    def write(self, frames: Tensor) -> None:
        """Append frames (n, H, W, 3) uint8, n >= 0."""
        for frame in _checked(frames, 4, "(n, H, W, 3)"):
            if self._size is None:
                self._start(frame)
            elif tuple(frame.shape) != self._size:
                raise ValueError(f"a frame of {tuple(frame.shape)} after frames of {self._size}")
            self._encode(np.ascontiguousarray(self._fitted(frame).numpy()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = False
        try:
            if self._size is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None and self._size is None:
                raise ValueError(f"{self.path}: a video needs at least one frame")
            whole = kind is None
        finally:
            if whole:
                os.replace(self._temporary, self.path)
            else:
                self._temporary.unlink(missing_ok=True)

    def _fitted(self, frame: Tensor) -> Tensor:
        frame = enlarge(frame, self._min_side)
        if self._pixel_format == "yuv420p":
            for dim in (0, 1):
                if frame.shape[dim] % 2:
                    frame = torch.cat([frame, frame.narrow(dim, frame.shape[dim] - 1, 1)], dim)
        return frame

    def _start(self, frame: Tensor) -> None:
        self._size = tuple(frame.shape)
        height, width = self._fitted(frame).shape[:2]
        # ultrafast: 47.0 dB in 4 ms for 9 x 32 x 32; veryfast 42.7 dB in 7 ms, medium 44.3 dB in 10 ms, same crf.
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.width, stream.height, stream.pix_fmt = width, height, self._pixel_format
        codec = stream.codec_context
        codec.options = {"preset": "ultrafast", "crf": str(self._crf)}
        codec.thread_count, codec.gop_size = 1, _KEY_FRAME_EVERY
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._stream = stream

    def _encode(self, frame: NDArray[np.uint8]) -> None:
        coded = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(frame, "rgb24"),
            format=self._pixel_format,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=EXACT,
            threads=1,
        )
        self._container.mux(self._stream.encode(coded))


def write_video(
    path: str | os.PathLike[str],
    video: Tensor,
    frame_rate: float,
    *,
    pixel_format: str = "yuv444p",
    crf: int = 12,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write frames (T, H, W, 3) uint8 as mp4, as they are: the form for training. Arguments as `VideoWriter`."""
    with VideoWriter(path, frame_rate, pixel_format=pixel_format, crf=crf, metadata=metadata) as writer:
        writer.write(video)


def write_preview(
    path: str | os.PathLike[str], video: Tensor, frame_rate: float, *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write frames (T, H, W, 3) uint8 as an mp4 that every player shows: `VideoWriter.preview`."""
    with VideoWriter.preview(path, frame_rate, metadata=metadata) as writer:
        writer.write(video)


def write_image(path: str | os.PathLike[str], image: Tensor, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a picture (H, W, 3) uint8 as png, `metadata` as JSON in a text chunk."""
    path = Path(path)
    pixels = np.ascontiguousarray(_checked(image, 3, "(H, W, 3)").numpy())
    info = PngImagePlugin.PngInfo()
    if metadata is not None:
        info.add_text(METADATA_TAG, json.dumps(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info, compress_level=4)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _checked(frames: Tensor, dims: int, shape: str) -> Tensor:
    if frames.dtype != torch.uint8 or frames.ndim != dims or frames.shape[-1] != 3:
        raise ValueError(f"frames have to be uint8 {shape}, got {frames.dtype} {tuple(frames.shape)}; see to_uint8")
    return frames.detach().cpu()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
