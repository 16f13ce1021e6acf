"""New frames before, after and between given ones: what extending, connecting and looping ask a pipeline for.

A causal VAE codes the first frame of a clip alone and then st frames a latent, each from its own and earlier frames.
So given frames are placed where they stand in the new clip, at whole latents, and encoded there: the end of a video is
never cut out of its latents. From one latent to the next a VAE jumps more than within one. So in extending the
given frame beside the new ones is made anew with them where it can be: they meet within a latent, and what was made of
the given frame gives way to the frame itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from kinema_core import Clip
from torch import Tensor
from torch.nn.functional import interpolate

from kinema.choosing import most_even
from kinema.pipeline import Pipeline, Request
from kinema.seams import mended

#: Latent frames of the given video that the new frames are generated with: two tell its velocity.
CONTEXT = 2


@dataclass(frozen=True)
class _Gap:
    """A clip to generate, which of its frames are new, and the videos that those come between."""

    given: Tensor
    keep_frames: tuple[int, ...]
    frames: int
    new: slice
    before: Tensor
    after: Tensor


def extend(
    pipeline: Pipeline,
    clip: Clip,
    prompt: str,
    *,
    after: int = 0,
    before: int = 0,
    context: int = CONTEXT,
    candidates: int = 1,
    seed: int = 0,
) -> Clip:
    """The clip with `after` new frames behind its last and `before` new ones in front of its first.

    Args:
        pipeline: the model.
        clip: its frames stay as they are.
        prompt: what happens in the new frames.
        after, before: numbers of frames, any.
        context: latent frames of the clip that the new frames go on from.
        candidates: how many are made, each of noise of its own; the most even one is kept (`kinema.choosing`).
        seed: of the noise.

    Raises:
        ValueError: no frames or candidates are asked for, or the clip is shorter than the context.
    """
    if min(after, before) < 0 or after + before == 0:
        raise ValueError(f"{before} frames before and {after} after; ask for at least one")
    st, video = pipeline.vae.stride[0], clip.video
    gaps = ([_before(video, before, context, st)] if before else []) + (
        [_after(video, after, context, st)] if after else []
    )
    made = _checked(pipeline, gaps, clip, prompt, candidates, seed)
    parts = [*made[: bool(before)], video, *made[bool(before) :]]
    return replace(clip, video=torch.cat(parts, dim=1), captions={"prompt": prompt})


def rollout(
    pipeline: Pipeline, request: Request, *, window: int, context: int = CONTEXT, seed: int = 0
) -> Iterator[Tensor]:
    """A video of any duration, window after window, each going on from the end of the one before.

    Time and memory of a window do not grow with the duration.

    Args:
        pipeline: the model.
        request: what is asked for; its number of frames may be any.
        window: frames that are generated at once, 1 + st n.
        context: latent frames of a window that the next one goes on from.
        seed: of the noise.

    Returns:
        Its frames (3, n, H, W) in [-1, 1], as they are made.

    Raises:
        ValueError: the window is no longer than its context, or the VAE does not take it.
    """
    head = 1 + pipeline.vae.stride[0] * (context - 1)
    if window <= head:
        raise ValueError(
            f"a window of {window} frames is no longer than its context of {context} latents, {head} frames"
        )
    pipeline.check([replace(request, frames=window)])
    return _windows(pipeline, request, window, context, seed)


def _windows(pipeline: Pipeline, request: Request, window: int, context: int, seed: int) -> Iterator[Tensor]:
    head = 1 + pipeline.vae.stride[0] * (context - 1)
    (clip,) = pipeline.generate([replace(request, frames=window)], seed=seed)
    yield clip.video[:, : request.frames]
    made = window
    while made < request.frames:
        # No more than the context: none of what was made is made again.
        gap = _after(clip.video[:, -head:], window - head, context, pipeline.vae.stride[0])
        part = replace(clip, id=f"{request.id}/{made}")
        (new,) = _generated(pipeline, [gap], part, request.prompt, 1, seed)
        yield new[:, : request.frames - made]
        clip = replace(clip, video=torch.cat([clip.video[:, -head:], new], dim=1))
        made += new.shape[1]


def connect(
    pipeline: Pipeline,
    first: Clip,
    second: Clip,
    prompt: str,
    *,
    frames: int,
    context: int = CONTEXT,
    candidates: int = 1,
    seed: int = 0,
) -> Clip:
    """Both clips with `frames` new frames between them, the most even of so many candidates.

    The second is brought to the size and the frame rate of the first by `matched` beforehand, where they differ.

    Raises:
        ValueError: `frames` is no multiple of the VAE's temporal stride, the clips differ in size, one is shorter
            than the context, or no candidates are asked for.
    """
    if first.video.shape[2:] != second.video.shape[2:]:
        sizes = " and ".join(f"{c.video.shape[2]} x {c.video.shape[3]}" for c in (first, second))
        raise ValueError(f"the clips to connect have {sizes} pixels; `matched` makes them equal")
    gap = _between(first.video, second.video, frames, context, pipeline.vae.stride[0])
    (made,) = _checked(pipeline, [gap], first, prompt, candidates, seed)
    video = torch.cat([first.video, made, second.video], dim=1)
    return replace(first, video=video, captions={"prompt": prompt})


def loop(
    pipeline: Pipeline,
    clip: Clip,
    prompt: str,
    *,
    frames: int,
    context: int = CONTEXT,
    candidates: int = 1,
    seed: int = 0,
) -> Clip:
    """The clip and `frames` new frames that lead from its last frame back to its first, to be shown without end.

    Time goes round in a circle, which is cut open within the given clip: its last frames come first, the new ones
    then and its first frames last, and both of its ends are kept. Of so many candidates the most even one is kept.

    Raises:
        ValueError: as `connect`.
    """
    joined = connect(pipeline, clip, clip, prompt, frames=frames, context=context, candidates=candidates, seed=seed)
    return replace(joined, video=joined.video[:, : clip.video.shape[1] + frames])  # without the clip once more


def matched(clip: Clip, like: Clip) -> Clip:
    """The clip at the size and the frame rate of another: frames are scaled, and the nearest in time are taken."""
    video, size = clip.video, like.video.shape[2:]
    if video.shape[2:] != size:
        scaled = interpolate(video.transpose(0, 1), size, mode="bilinear", antialias=True)
        video = scaled.transpose(0, 1).clamp(-1, 1)
    if clip.frame_rate != like.frame_rate:
        count = max(1, round(video.shape[1] * like.frame_rate / clip.frame_rate))
        moments = torch.arange(count) * (clip.frame_rate / like.frame_rate)
        video = video[:, moments.round().long().clamp(max=video.shape[1] - 1)]
    return replace(clip, video=video, frame_rate=like.frame_rate)


def _after(video: Tensor, count: int, context: int, st: int) -> _Gap:
    """New frames behind a video, whose last is made again with them if it is longer than the context."""
    again = video.shape[1] > 1 + st * (context - 1)
    head = _last(video[:, : -1 if again else None], context, st)
    new = st * -(-(again + count) // st)  # what is no whole latent is cut off
    start = head.shape[1] + again
    return _Gap(head, tuple(range(context)), head.shape[1] + new, slice(start, start + count), video, video[:, :0])


def _before(video: Tensor, count: int, context: int, st: int) -> _Gap:
    """New frames in front of a video, whose first is made again with them if it is longer than the context."""
    again = video.shape[1] > st * context
    tail = _first(video[:, int(again) :], context, st)
    new = 1 + st * -(-(count + again - 1) // st)
    latents, stop = 1 + (new - 1) // st, new - again
    kept = tuple(range(latents, latents + context))
    return _Gap(_still(tail, new), kept, new + tail.shape[1], slice(stop - count, stop), video[:, :0], video)


def _between(first: Tensor, second: Tensor, count: int, context: int, st: int) -> _Gap:
    if count < 1 or count % st:
        below = max(st, count - count % st)
        raise ValueError(
            f"{count} frames do not fit between two clips at a stride of {st}: use {below} or {below + st}"
        )
    head, tail = _last(first, context, st), _first(second, context, st)
    start, latents = head.shape[1], context + count // st
    given = torch.cat([head, _still(tail, count)], dim=1)
    kept = (*range(context), *range(latents, latents + context))
    return _Gap(given, kept, given.shape[1], slice(start, start + count), first, second)


def _last(video: Tensor, context: int, st: int) -> Tensor:
    """The frames at a video's end that make so many latents at a clip's beginning."""
    return _enough(video, 1 + st * (context - 1), context)[:, -(1 + st * (context - 1)) :]


def _first(video: Tensor, context: int, st: int) -> Tensor:
    """The frames at a video's beginning that make so many latents at a clip's end."""
    return _enough(video, st * context, context)[:, : st * context]


def _enough(video: Tensor, needed: int, context: int) -> Tensor:
    if context < 1 or video.shape[1] < needed:
        raise ValueError(
            f"a video of {video.shape[1]} frames is shorter than a context of {context} latents, {needed} frames; "
            "give a longer video or a smaller context, from 1 on"
        )
    return video


def _still(tail: Tensor, count: int) -> Tensor:
    """The tail after so many copies of its first frame, as if the video had been still until then."""
    return torch.cat([tail[:, :1].expand(-1, count, -1, -1), tail], dim=1)


def _checked(
    pipeline: Pipeline, gaps: Sequence[_Gap], clip: Clip, prompt: str, candidates: int, seed: int
) -> list[Tensor]:
    """`_generated`, once the gaps are found to fit in memory."""
    if candidates < 1:
        raise ValueError(f"{candidates} candidates; ask for at least one")
    pipeline.check([Request("", gap.frames, *clip.video.shape[2:]) for gap in gaps])
    return _generated(pipeline, gaps, clip, prompt, candidates, seed)


def _generated(
    pipeline: Pipeline, gaps: Sequence[_Gap], clip: Clip, prompt: str, candidates: int, seed: int
) -> list[Tensor]:
    """The new frames of each gap, the most even of the candidates."""
    height, width = clip.video.shape[2:]
    requests: list[Request] = []
    for i, gap in enumerate(gaps):
        for k in range(candidates):
            name = f"{clip.id}/{i}/{k}" if k else f"{clip.id}/{i}"  # the first is what is made where it is the only one
            kept = (gap.given, gap.keep_frames)
            requests.append(Request(prompt, gap.frames, height, width, clip.frame_rate, name, *kept))
    made = iter(pipeline.generate(requests, seed=seed))
    return [most_even([_new(next(made).video, gap) for _ in range(candidates)], gap.before, gap.after) for gap in gaps]


def _new(video: Tensor, gap: _Gap) -> Tensor:
    """The new frames of a generated clip, mended where they meet given ones."""
    new, (start, stop) = video[:, gap.new], (gap.new.start, gap.new.stop)
    if gap.before.shape[1]:
        new = mended(new, gap.before[:, -1:], video[:, start - 1 : start])
    if gap.after.shape[1]:
        new = mended(new.flip(1), gap.after[:, :1], video[:, stop : stop + 1]).flip(1)
    return new
