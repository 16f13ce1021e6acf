"""The tasks of a model of the made world, measured: animate, extend, loop, connect and edit, beside simple baselines.

    python benchmarks/tasks.py DEMO [--quick] [--clips 64] [--sheets docs/tasks]

DEMO is a folder that `kinema demo` wrote. Prompts are of combinations that the model never saw. A seam is the change
from frame to frame where given and new frames meet, over the median change between frames of the given clip. Velocity
errors are in pixels a frame, against where the object really goes. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch
from kinema.continuing import connect, extend, loop
from kinema.editing import edit
from kinema.pipeline import Pipeline, Request, reconstruct
from kinema.sheet import sheet
from kinema_core import Clip
from kinema_data import ManifestDataset, write_image
from kinema_data.worlds import make_prompts
from kinema_metrics import psnr
from kinema_metrics.world import Judge, WorldAccuracy
from torch import Tensor

SOURCE, NEW = 9, 8
STRENGTHS = (0.3, 0.5, 0.7, 0.9)


def captioned(clip: Clip) -> str:
    return next(iter(clip.captions.values()))


def shares(judge: WorldAccuracy, clips: Sequence[Clip], names: Sequence[str]) -> dict[str, float]:
    """How many of the clips have an attribute right, by attribute."""
    verdicts = judge.verdicts(list(clips))
    return {name: mean(v[name] for v in verdicts if name in v) for name in names}


def changes(video: Tensor) -> Tensor:
    """The mean absolute change from each frame to the next: (T - 1,)."""
    return video.diff(dim=1).abs().mean((0, 2, 3))


def seam(video: Tensor, at: int, given: Tensor) -> float | None:
    """The change into frame `at` over the median change of the given frames; None where those do not move."""
    usual = changes(given).median().item()
    return changes(video)[at - 1].item() / usual if usual > 1e-3 else None


def places(judge: Judge, clips: Sequence[Clip]) -> Tensor:
    """Centres of the objects in pixels, nan where there is none: (clips, T, 2)."""
    return torch.tensor([reading.positions for reading in judge.read(list(clips))])


def extended(pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy, *, forward: bool) -> tuple[dict, list]:
    """Half of each clip is given; the other half is made, and compared with what it was."""
    made = []
    for clip in real:
        part = clip.video[:, :SOURCE] if forward else clip.video[:, -SOURCE:]
        sides = {"after": NEW} if forward else {"before": NEW}
        longer = extend(pipeline, replace(clip, video=part), captioned(clip), **sides)
        made.append(replace(longer, captions=clip.captions))
    truth, found = places(judge.judge, real), places(judge.judge, made)
    new = slice(SOURCE, None) if forward else slice(0, NEW)
    steps = slice(SOURCE - 1, None) if forward else slice(0, NEW)  # moves into or out of new frames
    off = (found.diff(dim=1) - truth.diff(dim=1))[:, steps].norm(dim=-1)
    # Going on at the velocity of the last two given frames.
    edge, inner = (SOURCE - 1, SOURCE - 2) if forward else (NEW, NEW + 1)
    count = torch.arange(1, NEW + 1)[:, None]
    straight = truth[:, edge, None] + (truth[:, edge] - truth[:, inner])[:, None] * count
    straight = straight if forward else straight.flip(1)
    bent = torch.tensor([clip.meta["motion"] in ("bounce", "orbit") for clip in real])
    at = SOURCE if forward else NEW
    seams = [s for m, c in zip(made, real, strict=True) if (s := seam(m.video, at, c.video)) is not None]
    figures = {
        **shares(judge, made, ("colour", "shape", "motion")),
        "velocity_error": off.nanmean().item(),
        "seam": median(seams),
        "bent_distance": (found - truth)[bent, new].norm(dim=-1).nanmean().item(),
        "bent_distance_straight_on": (straight - truth[:, new])[bent].norm(dim=-1).nanmean().item(),
    }
    return figures, made


def animated(pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy) -> tuple[dict, list]:
    first = [replace(clip, video=clip.video[:, :1]) for clip in real]
    made = pipeline.animate(first, [Request.like(clip) for clip in real])
    given = mean(psnr(m.video[None, :, :1], c.video[None]).item() for m, c in zip(made, first, strict=True))
    floor = mean(psnr(reconstruct(pipeline.vae, c).video[None], c.video[None]).item() for c in first)
    figures = {**shares(judge, made, ("colour", "shape", "motion")), "first_psnr": given, "vae_psnr": floor}
    return figures, [replace(m, captions=c.captions) for m, c in zip(made, real, strict=True)]


def looped(pipeline: Pipeline, real: Sequence[Clip]) -> tuple[dict, list]:
    made = [loop(pipeline, clip, "", frames=NEW) for clip in real]  # a prompt would say where to go on
    moving = [(m, c) for m, c in zip(made, real, strict=True) if changes(c.video).median() > 1e-3]
    wraps = [seam(torch.cat([m.video[:, -1:], m.video[:, :1]], 1), 1, c.video) or 0.0 for m, c in moving]
    cut = [seam(torch.cat([c.video[:, -1:], c.video[:, :1]], 1), 1, c.video) or 0.0 for _, c in moving]
    degree = [(changes(m.video[:, SOURCE - 1 :]).mean() / changes(c.video).mean()).item() for m, c in moving]
    return {"wrap_seam": median(wraps), "cut_seam": median(cut), "dynamic_degree": median(degree)}, made


def connected(pipeline: Pipeline, real: Sequence[Clip]) -> tuple[dict, list]:
    """Each clip to the next one that differs in colour, shape and background."""
    made, peaks, ranks = [], [], []
    for i, one in enumerate(real):
        others = [c for c in (*real[i + 1 :], *real[:i]) if all(c.meta[k] != one.meta[k] for k in KINDS)]
        if not others:
            continue
        both = connect(pipeline, one, others[0], captioned(others[0]), frames=NEW)
        made.append(replace(both, captions={"prompt": f"{captioned(one)} -> {captioned(others[0])}"}))
        way = both.video[:, SOURCE - 1 : SOURCE + NEW + 1]
        usual = median([*changes(one.video).tolist(), *changes(others[0].video).tolist()])
        peaks.append(changes(way).max().item() / max(usual, 1e-3))
        left, right = ((way - way[:, end : end + 1 or None]).abs().mean((0, 2, 3)) for end in (0, -1))
        progress = left / (left + right).clamp(min=1e-6)
        order = progress.argsort().argsort().float()
        ranks.append(torch.corrcoef(torch.stack([order, torch.arange(len(order)).float()]))[0, 1].item())
    return {"peak_change": median(peaks), "rank_correlation": median(ranks), "pairs": len(made)}, made


KINDS = ("colour", "shape", "background")


def edited(pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy) -> tuple[dict, list]:
    """The object's colour is changed to another one by the prompt, at several strengths."""
    figures: dict[str, float] = {}
    shown: list[Clip] = []
    colours = list(judge.judge.world["colours"])
    for strength in STRENGTHS:
        made = []
        for i, clip in enumerate(real):
            colour = colours[(colours.index(clip.meta["colour"]) + 1 + i % (len(colours) - 1)) % len(colours)]
            prompt = captioned(clip).replace(clip.meta["colour"], colour)
            changed = edit(pipeline, clip, prompt, strength=strength)
            made.append(
                replace(changed, captions={"prompt": f"{strength}: {prompt}"}, meta={**clip.meta, "colour": colour})
            )
        found = shares(judge, made, ("colour", "shape", "motion", "background"))
        drift = (places(judge.judge, made) - places(judge.judge, real)).norm(dim=-1).nanmean().item()
        figures |= {f"{strength}/{name}": value for name, value in found.items()} | {f"{strength}/drift": drift}
        shown += made[:2]
    return figures, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--clips", type=int, default=64, help="of each task")
    parser.add_argument("--sheets", type=Path, help="folder for a contact sheet of each task")
    args = parser.parse_args()
    count = 4 if args.quick else args.clips
    pipeline = Pipeline.load(str(args.demo / "models" / "dit"))
    judge = WorldAccuracy(args.demo / "world" / "world.json")
    with tempfile.TemporaryDirectory() as name:
        real: dict[int, list[Clip]] = {}
        for frames in (SOURCE, SOURCE + NEW):
            folder = make_prompts(Path(name) / str(frames), num_clips=count, split="report", sizes=[(frames, 32, 32)])
            dataset = ManifestDataset(folder)
            real[frames] = [dataset[i] for i in range(len(dataset))]
    short, long = real[SOURCE], real[SOURCE + NEW]
    found = {
        "animate": animated(pipeline, short, judge),
        "extend_forward": extended(pipeline, long, judge, forward=True),
        "extend_backward": extended(pipeline, long, judge, forward=False),
        "loop": looped(pipeline, short),
        "connect": connected(pipeline, short),
        "edit": edited(pipeline, short[: max(4, count // 2)], judge),
    }
    for task, (figures, made) in found.items():
        print(f"{task}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)
        if args.sheets:
            args.sheets.mkdir(parents=True, exist_ok=True)
            write_image(args.sheets / f"{task}.png", sheet(made[:8]))
    print(
        json.dumps({f"{task}/{key}": value for task, (figures, _) in found.items() for key, value in figures.items()})
    )


if __name__ == "__main__":
    main()
