"""`kinema generate` and `animate`: prompts and images in, files out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from kinema_core import Clip
from kinema_data import read_clip, to_float, to_uint8, write_image, write_preview
from rich.progress import Progress

from kinema.errors import UserError
from kinema.pipeline import Pipeline, Request

MOST_PROMPT_CHARACTERS = 4000


@dataclass(frozen=True)
class Sizes:
    """What to make: frames (1: an image), pixels, frames per second (None: the model's)."""

    frames: int
    height: int
    width: int
    frame_rate: float | None = None


def generate_command(
    model: str, prompts: Sequence[str], *, sizes: Sizes, steps: int | None = None, seed: int = 0, out: str = "generated"
) -> list[Path]:
    """One mp4 (png for one frame) a prompt in `out`; each file's metadata says how it was made."""
    pipeline = loaded(model, steps)
    requests = [
        Request(
            clipped(prompt),
            sizes.frames,
            sizes.height,
            sizes.width,
            sizes.frame_rate or pipeline.frame_rate,
            id=str(i),
        )
        for i, prompt in enumerate(prompts)
    ]
    return _written(pipeline, requests, model, seed, out)


def animate_command(
    model: str,
    image: str,
    prompt: str = "",
    *,
    frames: int = 9,
    frame_rate: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    out: str = "generated",
) -> Path:
    """An mp4 that begins with the image (or the first frame of a video) and has its size."""
    pipeline = loaded(model, steps)
    first = to_float(read_clip(image).frames[:1])
    height, width = first.shape[2:]
    rate = frame_rate or pipeline.frame_rate
    request = Request(clipped(prompt), frames, height, width, rate, given=first, keep_frames=(0,))
    return _written(pipeline, [request], model, seed, out)[0]


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


def write_clip(path: Path, clip: Clip, facts: dict[str, Any]) -> Path:
    """Write a clip as mp4 that every player shows, or png for one frame; the path with its ending."""
    frames = to_uint8(clip.video)
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(frames) == 1:
        path = path.with_suffix(".png")
        write_image(path, frames[0], facts)
    else:
        path = path.with_suffix(".mp4")
        write_preview(path, frames, clip.frame_rate, metadata=facts)
    return path


def loaded(model: str, steps: int | None) -> Pipeline:
    """The model, with another number of sampling steps where one is given."""
    return Pipeline.load(model) if steps is None else Pipeline.load(model, num_steps=steps)


def _written(pipeline: Pipeline, requests: Sequence[Request], model: str, seed: int, out: str) -> list[Path]:
    try:
        for request in requests:
            pipeline.vae.latent_grid(request.frames, request.height, request.width)
    except ValueError as error:
        raise UserError(str(error)) from None
    with Progress() as progress:
        bar = progress.add_task("generate", total=len(requests))
        clips = pipeline.generate(requests, seed=seed, progress=lambda done: progress.advance(bar, done))
    paths = []
    for request, clip in zip(requests, clips, strict=True):
        paths.append(write_made(clip, out, facts_of(pipeline, model, clip, seed, prompt=request.prompt)))
    return paths


def facts_of(pipeline: Pipeline, model: str, clip: Clip, seed: int, **more: Any) -> dict[str, Any]:
    """How a clip was made: what goes into its file's metadata."""
    return {
        **more,
        "seed": seed,
        "id": clip.id,
        "size": list(clip.video.shape[1:]),
        "frame_rate": clip.frame_rate,
        "sampler": repr(pipeline.sampler),
        "guidance": repr(pipeline.guidance),
        "steps": pipeline.num_steps,
        "model": Path(model).name,
        "model_hash": pipeline.hash,
    }


def write_made(clip: Clip, out: str, facts: dict[str, Any]) -> Path:
    """Write a clip into the folder `out`, named by a hash of its facts: a prompt may hold anything."""
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return write_clip(Path(out) / name, clip, facts)


def clipped(prompt: str) -> str:
    """The prompt, cut where it is far too long, which is told."""
    if len(prompt) > MOST_PROMPT_CHARACTERS:
        print(f"the prompt has {len(prompt)} characters; the first {MOST_PROMPT_CHARACTERS} are used")
    return prompt[:MOST_PROMPT_CHARACTERS]
