"""`kinema extend`, `loop`, `connect` and `edit`: videos in, a longer or changed one out."""

from pathlib import Path

from kinema_core import Clip
from kinema_data import read_clip, to_float, unenlarged
from torch import Tensor

from kinema import continuing, editing
from kinema.errors import UserError
from kinema.making import Making, clipped, read_made


def extend_command(
    making: Making, video: str, prompt: str, *, frames: int, before: bool, after: bool, context: int, candidates: int
) -> Path:
    """The video with `frames` new frames before it, after it, or both."""
    pipeline, clip = making.pipeline(), read_made(video)
    counts = {"before": frames if before else 0, "after": frames if after else 0}
    how = {"context": context, "candidates": candidates}
    made = continuing.extend(pipeline, clip, clipped(prompt), **counts, **how, seed=making.seed)
    return making.write(pipeline, made, task="extend", prompt=prompt, source=video, **how, **counts)


def loop_command(making: Making, video: str, prompt: str, *, frames: int, context: int, candidates: int) -> Path:
    """The video and `frames` new frames from its end to its beginning."""
    pipeline, clip = making.pipeline(), read_made(video)
    how = {"context": context, "candidates": candidates}
    made = continuing.loop(pipeline, clip, clipped(prompt), frames=frames, **how, seed=making.seed)
    return making.write(pipeline, made, task="loop", prompt=prompt, source=video, **how)


def connect_command(
    making: Making, first: str, second: str, prompt: str, *, frames: int, context: int, candidates: int
) -> Path:
    """Both videos with `frames` new frames between them; the second at the size and the rate of the first."""
    one, given = read_made(first), read_made(second)
    other = continuing.matched(given, one)
    if other.video.shape[2:] != given.video.shape[2:] or other.frame_rate != given.frame_rate:
        height, width = one.video.shape[2:]
        print(f"{second} is brought to {height} x {width} pixels and {one.frame_rate:g} frames a second")
    pipeline = making.pipeline()
    how = {"context": context, "candidates": candidates}
    made = continuing.connect(pipeline, one, other, clipped(prompt), frames=frames, **how, seed=making.seed)
    return making.write(pipeline, made, task="connect", prompt=prompt, source=[first, second], **how)


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
    clip = read_made(video)
    keep = None if mask is None else _black(mask, clip)
    if height or width:
        if keep is not None:
            raise UserError("a mask and a larger frame exclude each other: give --mask, or --height and --width")
        old = clip.video.shape[2:]
        clip, keep = editing.framed(clip, height or old[0], width or old[1])
    pipeline = making.pipeline()
    made = editing.edit(pipeline, clip, clipped(prompt), strength=strength, keep=keep, seed=making.seed)
    return making.write(pipeline, made, task="edit", prompt=prompt, source=video, strength=strength, mask=mask)


def _black(path: str, clip: Clip) -> Tensor:
    """(H, W): where an image is darker than middle grey; one of the clip's file as players show it will do too."""
    height, width = clip.video.shape[2:]
    return to_float(unenlarged(read_clip(path).frames, height, width))[:, 0].mean(0) < 0
