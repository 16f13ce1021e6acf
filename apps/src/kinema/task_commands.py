"""`kinema extend`, `loop`, `connect` and `edit`: videos in, a longer or changed one out."""

from pathlib import Path

import torch
from kinema_core import Clip
from kinema_data import read_clip, read_metadata, to_float
from torch.nn.functional import interpolate

from kinema import continuing, editing
from kinema.errors import UserError
from kinema.making import Making, clipped


def extend_command(
    making: Making, video: str, prompt: str, *, frames: int, before: bool, after: bool, context: int
) -> Path:
    """The video with `frames` new frames before it, after it, or both."""
    pipeline, clip = making.pipeline(), _read(video)
    counts = {"before": frames if before else 0, "after": frames if after else 0}
    made = continuing.extend(pipeline, clip, clipped(prompt), **counts, context=context, seed=making.seed)
    return making.write(pipeline, made, task="extend", prompt=prompt, source=video, **counts)


def loop_command(making: Making, video: str, prompt: str, *, frames: int, context: int) -> Path:
    """The video and `frames` new frames from its end to its beginning."""
    pipeline, clip = making.pipeline(), _read(video)
    made = continuing.loop(pipeline, clip, clipped(prompt), frames=frames, context=context, seed=making.seed)
    return making.write(pipeline, made, task="loop", prompt=prompt, source=video)


def connect_command(making: Making, first: str, second: str, prompt: str, *, frames: int, context: int) -> Path:
    """Both videos with `frames` new frames between them; the second at the size and the rate of the first."""
    one, given = _read(first), _read(second)
    other = continuing.matched(given, one)
    if other.video.shape[2:] != given.video.shape[2:] or other.frame_rate != given.frame_rate:
        height, width = one.video.shape[2:]
        print(f"{second} is brought to {height} x {width} pixels and {one.frame_rate:g} frames a second")
    pipeline = making.pipeline()
    made = continuing.connect(
        pipeline, one, other, clipped(prompt), frames=frames, context=context, seed=making.seed
    )  # fmt: skip
    return making.write(pipeline, made, task="connect", prompt=prompt, source=[first, second])


def edit_command(
    making: Making,
    video: str,
    prompt: str,
    *,
    strength: float,
    mask: str | None,
    height: int | None,
    width: int | None,
) -> Path:
    """The video changed towards the prompt: all of it, where a mask is white, or beyond its frame."""
    clip = _read(video)
    keep = None if mask is None else _black(mask)
    if height or width:
        if keep is not None:
            raise UserError("a mask and a larger frame exclude each other: give --mask, or --height and --width")
        old = clip.video.shape[2:]
        clip, keep = editing.framed(clip, height or old[0], width or old[1])
    pipeline = making.pipeline()
    made = editing.edit(pipeline, clip, clipped(prompt), strength=strength, keep=keep, seed=making.seed)
    return making.write(pipeline, made, task="edit", prompt=prompt, source=video, strength=strength)


def _read(path: str) -> Clip:
    """A clip; what Kinema made and wrote enlarged, so that players show it, is brought back to its own size."""
    found, facts = read_clip(path), read_metadata(path)
    video = to_float(found.frames)
    size = tuple(facts.get("size", video.shape[1:]))[1:]
    if size != video.shape[2:]:
        video = interpolate(video.transpose(0, 1), size, mode="area").transpose(0, 1)
    return Clip(Path(path).name, video, found.frame_rate)


def _black(path: str) -> torch.Tensor:
    """(H, W): where an image is darker than middle grey."""
    return to_float(read_clip(path).frames)[:, 0].mean(0) < 0
