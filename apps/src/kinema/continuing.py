"""New frames before, after and between given ones: what extending, connecting and looping ask a pipeline for.

A causal VAE codes the first frame of a clip alone and then st frames a latent, each from its own and earlier frames.
So given frames are placed where they stand in the new clip, at whole latents, and encoded there: the end of a video is
never cut out of its latents. From one latent to the next a VAE jumps more than within one. So new frames are made
twice: first behind or in front of all that is given, then drawn over a little (SDEdit), half a latent further on, so
that given and new frames meet within a latent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from kinema_core import Clip
from kinema_sampling import SDEditSampler
from torch import Tensor
from torch.nn.functional import interpolate

from kinema.choosing import most_even
from kinema.pipeline import Pipeline, Request
from kinema.seams import mended

#: Latent frames of the given video that the new frames are generated with: two tell its velocity.
CONTEXT = 2
#: Of the noise with which new frames are drawn over: more moves what was made, less leaves the seam.
OVER = 0.3


@dataclass(frozen=True)
class _Gap:
    """A clip to generate, which of its frames are new, and the videos that those come between.

    Its latents may hold more new frames, `room`, than the `new` ones that are asked for.
    """

    given: Tensor
    keep_frames: tuple[int, ...]
    frames: int
    room: slice
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
        context: latent frames of the clip that the new frames go on from; drawn over, as many of them as are left.
        candidates: how many are made, each of noise of its own; the most even one is kept (`kinema.choosing`).
        seed: of the noise.

    Raises:
        ValueError: no frames or candidates are asked for, or the clip is shorter than the context.
    """
    if min(after, before) < 0 or after + before == 0:
        raise ValueError(f"{before} frames before and {after} after; ask for at least one")
    video = clip.video
    nothing = video[:, :0]
    sides = ([(nothing, video, before)] if before else []) + ([(video, nothing, after)] if after else [])
    made = _made(pipeline, sides, clip, prompt, context, candidates, seed)
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
        gap = _gap(clip.video, clip.video[:, :0], window - head, context, pipeline.vae.stride[0])
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
    (made,) = _made(pipeline, [(first.video, second.video, frames)], first, prompt, context, candidates, seed)
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


def _made(
    pipeline: Pipeline,
    sides: Sequence[tuple[Tensor, Tensor, int]],
    clip: Clip,
    prompt: str,
    context: int,
    candidates: int,
    seed: int,
) -> list[Tensor]:
    """So many new frames between each two videos, of which one may have no frames: made, and drawn over."""
    if candidates < 1:
        raise ValueError(f"{candidates} candidates; ask for at least one")
    st, (height, width) = pipeline.vae.stride[0], clip.video.shape[2:]
    over = [_gap_over(*side, context, st) for side in sides]
    # What is drawn over has other latents, which may hold more frames.
    counts = [gap.room.stop - gap.room.start if gap else count for gap, (_, _, count) in zip(over, sides, strict=True)]
    gaps = [_gap(first, second, count, context, st) for (first, second, _), count in zip(sides, counts, strict=True)]
    pipeline.check([Request("", gap.frames, height, width) for gap in (*gaps, *over) if gap])
    made = _generated(pipeline, gaps, clip, prompt, candidates, seed)
    drawing = replace(pipeline, sampler=SDEditSampler(base=pipeline.sampler, strength=OVER))
    named = replace(clip, id=f"{clip.id}/over")
    filled = {i: _filled(gap, made[i]) for i, gap in enumerate(over) if gap}
    drawn = dict(zip(filled, _generated(drawing, list(filled.values()), named, prompt, 1, seed), strict=True))
    return [drawn.get(i, new) for i, new in enumerate(made)]


def _filled(gap: _Gap, new: Tensor) -> _Gap:
    """The gap with frames given in all its room."""
    parts = [gap.given[:, : gap.room.start], new, gap.given[:, gap.room.stop :]]
    return replace(gap, given=torch.cat(parts, dim=1))


def _gap(first: Tensor, second: Tensor, count: int, context: int, st: int, over: int = 0) -> _Gap:
    """So many new frames behind one video and in front of another, one of which may have no frames.

    Of each, `over` frames beside the new ones are not kept.
    """
    behind, ahead = (over if video.shape[1] else 0 for video in (first, second))
    head = _last(first[:, : first.shape[1] - behind], context, st) if first.shape[1] else first
    tail = _first(second[:, ahead:], context, st) if second.shape[1] else second
    middle = behind + count + ahead
    if head.shape[1] and tail.shape[1] and (middle < 1 or middle % st):
        below = max(st, count - count % st)
        raise ValueError(
            f"{count} frames do not fit between two clips at a stride of {st}: use {below} or {below + st}"
        )
    alone = int(not head.shape[1])  # the first latent has one frame
    whole = alone + st * -(-(middle - alone) // st)
    room = slice(head.shape[1] + behind, head.shape[1] + whole - ahead)
    # What is no whole latent is cut off where nothing is given.
    new = slice(room.stop - count, room.stop) if alone else slice(room.start, room.start + count)
    filling = tail[:, :1].expand(-1, room.stop - room.start, -1, -1) if tail.shape[1] else tail
    given = torch.cat([head, first[:, first.shape[1] - behind :], filling, second[:, :ahead], tail], dim=1)
    frames = head.shape[1] + whole + tail.shape[1]
    latents = 1 + (frames - 1) // st
    begin, end = (context if part.shape[1] else 0 for part in (head, tail))
    kept = (*range(begin), *range(latents - end, latents))
    return _Gap(given, kept, frames, room, new, first, second)


def _gap_over(first: Tensor, second: Tensor, count: int, context: int, st: int) -> _Gap | None:
    """The same half a latent further on, with as much of the context as is left; None where nothing is left."""
    over = st // 2
    left = 1 + (first.shape[1] - over - 1) // st if first.shape[1] else context
    right = (second.shape[1] - over) // st if second.shape[1] else context
    context = min(context, left, right)
    if st % 2 or context < 1:
        return None
    return _gap(first, second, count, context, st, over)


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
