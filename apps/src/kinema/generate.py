"""`kinema generate` and `animate`: prompts and images in, files out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from kinema_core import Clip
from rich.progress import Progress
from torch import Tensor

from kinema import previewing
from kinema.continuing import CONTEXT, rollout
from kinema.errors import UserError
from kinema.making import Making, clipped, read_made
from kinema.pipeline import PACK_CELLS, Moment, Pipeline, Request


@dataclass(frozen=True)
class Sizes:
    """What to make: frames (1: an image), pixels, frames per second (None: the model's).

    With a `window`, that many frames are made at once, each window going on from `context` latent frames of the last.
    """

    frames: int
    height: int
    width: int
    frame_rate: float | None = None
    window: int | None = None
    context: int = CONTEXT


def generate_command(making: Making, prompts: Sequence[str], sizes: Sizes, *, preview: bool = False) -> Iterable[Path]:
    """One mp4 (png for one frame) a prompt; each file's metadata says how it was made.

    Args:
        making: model, sampling and folder.
        prompts: any texts.
        sizes: of all clips.
        preview: first make each clip at half its size, then the clip after its composition.

    Returns:
        The files, previews as they are written.
    """
    pipeline = making.pipeline()
    rate = sizes.frame_rate or pipeline.frame_rate
    requests = [
        Request(clipped(prompt), sizes.frames, sizes.height, sizes.width, rate, id=str(i))
        for i, prompt in enumerate(prompts)
    ]
    if sizes.window is not None and preview:
        raise UserError("a preview is of a clip that is made at once: give --window or --preview")
    if sizes.window is not None:
        return _rolled_out(making, pipeline, requests, sizes.window, sizes.context)
    pipeline.check(requests)
    if preview:
        return _previewed(making, pipeline, requests)
    return _written(making, pipeline, requests)


def animate_command(
    making: Making, image: str, prompt: str, *, frames: int, frame_rate: float | None, at: Moment
) -> list[Path]:
    """An mp4 that shows the image (or the first frame of a video) first, in the middle or last, and has its size."""
    pipeline = making.pipeline()
    shown = read_made(image).video[:, :1]
    request = Request(clipped(prompt), frames, *shown.shape[2:], frame_rate or pipeline.frame_rate)
    pipeline.check([request])
    return _written(making, pipeline, [pipeline.showing(shown, request, at)], task="animate", source=image, at=at)


def generate_clips(
    model: str,
    requests: Sequence[Request],
    *,
    seed: int = 0,
    processes: int = 1,
    changes: Mapping[str, Any] | None = None,
) -> list[Clip]:
    """Clips in the order of the requests, shared by `processes`; the same for any number of them.

    Args:
        model: model folder.
        requests: what to generate.
        seed: of the noise.
        processes: each loads the model and uses one CPU thread; 1: this process, with all its threads.
        changes: as of `Pipeline.load`.
    """
    if processes == 1:
        return Pipeline.load(model, **(changes or {})).generate(requests, seed=seed)
    shares = [list(requests[i::processes]) for i in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        done = [pool.submit(_share, model, share, seed, dict(changes or {})) for share in shares]
        parts = [future.result() for future in done]
    # Request i went to share i % processes, as its i // processes-th.
    clips = [parts[i % processes][i // processes] for i in range(len(requests))]
    return [replace(clip, video=torch.from_numpy(clip.video)) for clip in clips]


def _share(model: str, requests: list[Request], seed: int, changes: dict[str, Any]) -> list[Clip]:
    torch.set_num_threads(1)
    clips = Pipeline.load(model, **changes).generate(requests, seed=seed)
    # Numpy arrays travel between processes by value; tensors would need a file handle each.
    return [replace(clip, video=clip.video.numpy()) for clip in clips]


def pieces_of(pipeline: Pipeline, request: Request, seed: int, window: int | None, context: int) -> Iterator[Tensor]:
    """The frames of one request: window after window where one is given, as they are decoded where it fills a pack."""
    if window is not None:
        return rollout(pipeline, request, window=window, context=context, seed=seed)
    if pipeline.cells(request) >= PACK_CELLS:
        return pipeline.stream(request, seed=seed)
    return (clip.video for clip in pipeline.generate([request], seed=seed))


def _written(making: Making, pipeline: Pipeline, requests: Sequence[Request], **facts: Any) -> list[Path]:
    """Small clips many at a time; one that fills a pack goes to its file as it is decoded."""
    large = [request for request in requests if pipeline.cells(request) >= PACK_CELLS]
    small = [request for request in requests if pipeline.cells(request) < PACK_CELLS]
    with Progress() as progress:
        bar = progress.add_task("generate", total=len(requests))
        clips = pipeline.generate(small, seed=making.seed, progress=lambda done: progress.advance(bar, done))
        paths = [
            making.write(pipeline, clip, prompt=request.prompt, **facts)
            for request, clip in zip(small, clips, strict=True)
        ]
        for request in large:
            pieces = pipeline.stream(request, seed=making.seed)
            paths.append(making.write_pieces(pipeline, request, pieces, prompt=request.prompt, **facts))
            progress.advance(bar)
    return paths


def _rolled_out(
    making: Making, pipeline: Pipeline, requests: Sequence[Request], window: int, context: int
) -> list[Path]:
    paths = []
    with Progress() as progress:
        bar = progress.add_task("frames", total=sum(request.frames for request in requests))

        def counted(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
            for piece in pieces:
                yield piece
                progress.advance(bar, piece.shape[1])

        for request in requests:
            pieces = rollout(pipeline, request, window=window, context=context, seed=making.seed)
            facts = {"prompt": request.prompt, "window": window, "context": context}
            paths.append(making.write_pieces(pipeline, request, counted(pieces), **facts))
    return paths


def _previewed(making: Making, pipeline: Pipeline, requests: Sequence[Request]) -> Iterator[Path]:
    for request in requests:
        small = previewing.preview(pipeline, request, seed=making.seed)
        yield making.write(pipeline, small, prompt=request.prompt)
        clip = previewing.full_size(pipeline, small, request, seed=making.seed)
        yield making.write(pipeline, clip, task="generate --preview", source=request.prompt, prompt=request.prompt)
