"""The made world as files: mp4 and png, a manifest with exact ground truth, and the world's definition."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kinema_data.video import write_image, write_video
from kinema_data.worlds.look import Look
from kinema_data.worlds.render import render_frames
from kinema_data.worlds.scenes import FRAME_RATES, Scene, draw_scene, prompts
from kinema_data.worlds.world import World

#: Shares of the clips in each split.
DEFAULT_SPLITS = {"train": 0.9, "choose": 0.05, "report": 0.05}
#: Clips rendered and written at once: one unit of progress.
_CHUNK = 64


def make_world(
    out: str | os.PathLike[str],
    *,
    num_clips: int,
    seed: int = 0,
    scale: int = 1,
    look: Look | None = None,
    styles: Sequence[str] = ("flat",),
    events: Sequence[str] = ("none",),
    splits: Mapping[str, float] | None = None,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a made world to a new folder: `clips/`, `manifest.jsonl`, `world.json`.

    The content is a function of (num_clips, seed, scale, look, styles, events, splits), not of the number of workers.
    The folder is written under a temporary name and renamed when it is whole.

    Args:
        out: the folder; it must not exist, or be empty.
        num_clips: of all splits together.
        scale: whole number that multiplies every length.
        look: how clips are painted; None: flat colours.
        styles: how objects are drawn, see `World`.
        events: what can happen beside the motion, see `World`.
        splits: share of the clips in each of train, choose and report; None: 90 %, 5 %, 5 %.
        num_workers: processes. More than one needs a main module that can be imported (a guarded `__main__`).
        progress: called with clips written and clips in all.

    Returns:
        The folder.
    """
    world = World(scale, look or Look(), tuple(styles), tuple(events))
    jobs = _jobs(world, seed, _counts(num_clips, splits or DEFAULT_SPLITS))
    return _write_folder(Path(out), world, jobs, num_clips, num_workers, progress)


def make_prompts(
    out: str | os.PathLike[str],
    *,
    num_clips: int,
    split: str,
    seed: int = 0,
    sizes: Sequence[tuple[int, int, int]] = ((9, 32, 32),),
    frame_rates: Sequence[float] = FRAME_RATES,
    scale: int = 1,
    look: Look | None = None,
    styles: Sequence[str] = ("flat",),
    events: Sequence[str] = ("none",),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write evaluation prompts and the clips they describe, as `make_world` writes a world: see `prompts`.

    Args:
        out: the folder; it must not exist, or be empty.
        num_clips: how many.
        split: whose combinations of colour, shape and motion.
        sizes: (frames, height, width), taken in turn.
        frame_rates: one is drawn for each clip.
        scale, look, styles, events: of the world; frame sizes are given in pixels, whatever the scale.
        progress: called with clips written and clips in all.

    Returns:
        The folder.
    """
    world = World(scale, look or Look(), tuple(styles), tuple(events))
    scenes = prompts(world, split, num_clips, seed, sizes=sizes, frame_rates=frame_rates)
    jobs = [partial(list, scenes[start : start + _CHUNK]) for start in range(0, num_clips, _CHUNK)]
    return _write_folder(Path(out), world, jobs, num_clips, 1, progress)


#: One unit of work: gives its scenes, in the process that writes them.
_Job = Callable[[], list[Scene]]


def _write_folder(
    out: Path,
    world: World,
    jobs: Sequence[_Job],
    num_clips: int,
    num_workers: int,
    progress: Callable[[int, int], None] | None,
) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty: name a new folder, or delete it first")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        (temporary / "clips").mkdir(parents=True)
        (temporary / "world.json").write_text(world.to_json())
        with (temporary / "manifest.jsonl").open("w") as manifest:
            done = 0
            for lines in _results(jobs, temporary, num_workers):
                manifest.writelines(json.dumps(line) + "\n" for line in lines)
                done += len(lines)
                if progress is not None:
                    progress(done, num_clips)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _counts(num_clips: int, splits: Mapping[str, float]) -> dict[str, int]:
    """Clips of each split; what rounding leaves goes to the first."""
    total = sum(splits.values())
    if not splits or min(splits.values()) < 0 or total <= 0:
        raise ValueError(f"splits are positive shares of the clips, got {dict(splits)}")
    counts = {split: int(num_clips * share / total) for split, share in splits.items()}
    counts[next(iter(counts))] += num_clips - sum(counts.values())
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    return counts


def _jobs(world: World, seed: int, counts: Mapping[str, int]) -> list[_Job]:
    for split in counts:
        world.triples(split)
    return [
        partial(_drawn, world, split, seed, range(start, min(start + _CHUNK, count)))
        for split, count in counts.items()
        for start in range(0, count, _CHUNK)
    ]


def _drawn(world: World, split: str, seed: int, indices: range) -> list[Scene]:
    return [draw_scene(world, split, seed, index) for index in indices]


def _results(jobs: Sequence[_Job], folder: Path, num_workers: int) -> Iterator[list[dict[str, Any]]]:
    if num_workers <= 1:
        yield from (_write(job, folder) for job in jobs)
        return
    # Not forked: a forked process hangs in torch if the parent has used its threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(_write, jobs, [folder] * len(jobs))


def _write(job: _Job, folder: Path) -> list[dict[str, Any]]:
    """Write the clips of a job; their manifest lines."""
    scenes = job()
    lines = []
    for scene, frames in zip(scenes, render_frames(scenes), strict=True):
        name = f"clips/{scene.id}.{'png' if scene.frames == 1 else 'mp4'}"
        if scene.frames == 1:
            write_image(folder / name, frames[0])
        else:
            write_video(folder / name, frames, scene.frame_rate)
        lines.append(_line(scene, name))
    return lines


def _line(scene: Scene, path: str) -> dict[str, Any]:
    return {
        "id": scene.id,
        "path": path,
        "captions": dict(scene.captions),
        "frames": scene.frames,
        "height": scene.height,
        "width": scene.width,
        "frame_rate": scene.frame_rate,
        "split": scene.split,
        "meta": scene.meta,
    }
