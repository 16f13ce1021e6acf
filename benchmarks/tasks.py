"""Tasks of a model of the made world beside baselines: image, animate, extend, loop, connect, edit, preview.

    python benchmarks/tasks.py DEMO [--quick] [--clips 64] [--candidates 4] [--only loop,connect] [--sheets docs/tasks]

DEMO is a folder that `kinema demo` or `benchmarks/tasks_model.py` wrote. Prompts are of combinations that the model
never saw. A seam is the change from frame to frame where given and new frames meet, over the median change of the
video. Velocity errors are in pixels a frame, against where the object really goes; beside them stands what the VAE
alone does to the true clip. In brackets are 95 % intervals. The last line is one JSON object.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import median

import torch
from estimates import Estimate, average, share, typical
from kinema.choosing import changes
from kinema.continuing import connect, extend, loop
from kinema.editing import edit
from kinema.pipeline import Pipeline, Request, reconstruct
from kinema.previewing import full_size, preview
from kinema.sheet import sheet
from kinema_core import Clip
from kinema_data import ManifestDataset, write_image
from kinema_data.worlds import STYLE_WORDS, make_prompts, turning_into
from kinema_metrics import psnr
from kinema_metrics.world import Judge, WorldAccuracy
from torch import Tensor

#: Frames that are given and that are made.
SOURCE, NEW = 9, 8
#: New frames between two scenes of other backgrounds: a frame's change is then as small as that of a moving object.
BETWEEN = 48
#: Frames after a clip's first that a loop and a connection go on from.
TELLING = 4
#: Heights and widths at the world's scale 1: trained on are 32 and 48.
IMAGES = ((32, 32), (48, 48), (40, 56), (64, 32))
VIDEOS = ((32, 32),)
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
#: Of what is added to an enlarged preview; the made world's objects have a size in pixels, so little has to do.
ENLARGED = (0.1, 0.2, 0.3, 0.5)
#: What two clips that are connected differ in.
KINDS = ("colour", "shape", "background")
TASKS = ("image", "animate", "extend_forward", "extend_backward", "loop", "connect", "edit", "preview")
#: The least change a frame of a clip that moves.
MOVES = 1e-3

Figures = dict[str, Estimate | float]


def captioned(clip: Clip) -> str:
    return next(iter(clip.captions.values()))


def shares(judge: WorldAccuracy, clips: Sequence[Clip], names: Sequence[str]) -> Figures:
    """How many of the clips have an attribute right, by attribute."""
    verdicts = judge.verdicts(list(clips))
    return {name: share(v[name] for v in verdicts if name in v) for name in names if any(name in v for v in verdicts)}


def seam(video: Tensor, at: int) -> float | None:
    """The change into frame `at` over the median change; None where nothing moves."""
    found = changes(video)
    usual = found.median().item()
    return found[at - 1].item() / usual if usual > MOVES else None


def places(judge: Judge, clips: Sequence[Clip]) -> Tensor:
    """Centres of the objects in pixels, nan where there is none: (clips, T, 2)."""
    return torch.tensor([reading.positions for reading in judge.read(list(clips))])


def imaged(pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy) -> tuple[Figures, list[Clip]]:
    """Images of sizes that training had and of others; as many of each."""
    made = pipeline.generate([Request.like(clip) for clip in real])
    sizes = dict.fromkeys(tuple(clip.video.shape[2:]) for clip in real)
    figures: Figures = {}
    for height, width in sizes:
        these = [clip for clip in made if clip.video.shape[2:] == (height, width)]
        found = shares(judge, these, ("colour", "shape", "size", "background"))
        figures |= {f"{height}x{width}/{name}": value for name, value in found.items()}
    return figures, [next(c for c in made if c.video.shape[2:] == size) for size in sizes]


def animated(pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy) -> tuple[Figures, list[Clip]]:
    first = [replace(clip, video=clip.video[:, :1]) for clip in real]
    made = pipeline.animate(first, [Request.like(clip) for clip in real])
    given = average(psnr(m.video[None, :, :1], c.video[None]).item() for m, c in zip(made, first, strict=True))
    floor = average(psnr(reconstruct(pipeline.vae, c).video[None], c.video[None]).item() for c in first)
    figures = {**shares(judge, made, ("colour", "shape", "motion")), "first_psnr": given, "vae_psnr": floor}
    return figures, [replace(m, captions=c.captions) for m, c in zip(made, real, strict=True)]


def extended(
    pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy, candidates: int, *, forward: bool
) -> tuple[Figures, list[Clip]]:
    """Half of each clip is given; the other half is made, and compared with what it was."""
    given = slice(0, SOURCE) if forward else slice(NEW, None)
    new = slice(SOURCE, None) if forward else slice(0, NEW)
    steps = slice(SOURCE - 1, None) if forward else slice(0, NEW)  # moves into or out of new frames
    at = SOURCE if forward else NEW
    sides = {"after": NEW} if forward else {"before": NEW}
    # All given frames that are whole latents; those at a clip's end have no first frame of their own.
    context = (SOURCE - forward) // pipeline.vae.stride[0] + forward

    def longer(clip: Clip, seed: int = 0) -> Clip:
        part = replace(clip, video=clip.video[:, given])
        made = extend(pipeline, part, captioned(clip), **sides, context=context, candidates=candidates, seed=seed)
        return replace(made, captions=clip.captions)

    def coded(clip: Clip) -> Clip:
        video = reconstruct(pipeline.vae, clip).video
        video[:, given] = clip.video[:, given]
        return replace(clip, video=video)

    made, floor = [longer(clip) for clip in real], [coded(clip) for clip in real]
    truth, found = places(judge.judge, real), places(judge.judge, made)

    def velocity(moves: Tensor) -> Estimate:
        return average(moves[:, steps].norm(dim=-1).nanmean(1))

    def seams(clips: Sequence[Clip]) -> Estimate:
        return typical(seam(clip.video, at) for clip in clips)

    # Going on at the velocity of the last two given frames.
    edge, inner = (SOURCE - 1, SOURCE - 2) if forward else (NEW, NEW + 1)
    count = torch.arange(1, NEW + 1)[:, None]
    straight = truth[:, edge, None] + (truth[:, edge] - truth[:, inner])[:, None] * count
    straight = straight if forward else straight.flip(1)
    bent = torch.tensor([clip.meta["motion"] in ("bounce", "orbit") for clip in real])
    figures = {
        **shares(judge, made, ("colour", "shape", "motion")),
        "velocity_error": velocity(found.diff(dim=1) - truth.diff(dim=1)),
        "velocity_error_vae": velocity(places(judge.judge, floor).diff(dim=1) - truth.diff(dim=1)),
        "velocity_error_frozen": velocity(truth.diff(dim=1)),
        "seam": seams(made),
        "seam_vae": seams(floor),
        "bent_distance": distance(found[bent, new], truth[bent, new]),
        "bent_distance_straight_on": distance(straight[bent], truth[bent, new]),
    }
    if not forward:
        seeds = [[longer(clip, seed) for seed in range(1, 5)] for clip in real[: max(2, len(real) // 8)]]
        figures |= beginnings(judge.judge, seeds)
    return figures, made


def beginnings(judge: Judge, seeds: Sequence[Sequence[Clip]]) -> Figures:
    """How far apart the first frames of clips with one ending are."""
    apart, pixels = [], []
    for clips in seeds:
        tracks = places(judge, clips)[:, 0]
        assert all(torch.equal(clip.video[:, NEW:], clips[0].video[:, NEW:]) for clip in clips)
        pairs = list(combinations(range(len(clips)), 2))
        apart.append(torch.stack([(tracks[a] - tracks[b]).norm() for a, b in pairs]).nanmean().item())
        changed = [(clips[a].video[:, 0] - clips[b].video[:, 0]).abs().mean() for a, b in pairs]
        pixels.append(torch.stack(changed).mean().item())
    return {"beginnings_apart": average(apart), "beginnings_change": average(pixels)}


def looped(pipeline: Pipeline, real: Sequence[Clip], candidates: int) -> tuple[Figures, list[Clip]]:
    """From the end back to the beginning, in as many frames as the source's and in more: slower on the way."""
    moving = [clip for clip in real if changes(clip.video).median() > MOVES]
    context = telling_context(pipeline)
    figures: Figures = {"moving": len(moving), "wrap_seam_cut": typical(wrap(clip.video) for clip in moving)}
    shown: list[Clip] = []
    for frames in (NEW, 2 * NEW):
        # Without a prompt, which would say where to go on.
        made = [loop(pipeline, c, "", frames=frames, context=context, candidates=candidates) for c in moving]
        degree = (
            changes(m.video[:, SOURCE - 1 :]).mean() / changes(c.video).mean()
            for m, c in zip(made, moving, strict=True)
        )
        figures |= {
            f"{frames}/wrap_seam": typical(wrap(clip.video) for clip in made),
            f"{frames}/first_seam": typical(seam(clip.video, SOURCE) for clip in made),
            f"{frames}/dynamic_degree": typical(float(part) for part in degree),
        }
        shown += made[:4]
    return figures, shown


def telling_context(pipeline: Pipeline) -> int:
    """Latents of as many frames at any stride in time."""
    return 1 + TELLING // pipeline.vae.stride[0]


def wrap(video: Tensor) -> float | None:
    """The seam from the last frame to the first."""
    return seam(torch.cat([video, video[:, :1]], 1), video.shape[1])


def connected(
    pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy, candidates: int
) -> tuple[Figures, list[Clip]]:
    """Each clip to the next one that differs in colour, shape and background; beside a cut and a cross-fade."""
    context = telling_context(pipeline)
    rows: dict[str, list[Clip]] = {"": [], "_fade": [], "_cut": []}
    pairs: list[tuple[Clip, Clip]] = []
    for i, one in enumerate(real):
        others = [c for c in (*real[i + 1 :], *real[:i]) if all(c.meta[k] != one.meta[k] for k in KINDS)]
        if not others:
            continue
        other = others[0]
        prompt = turning_into(captioned(one), captioned(other))
        both = connect(pipeline, one, other, prompt, frames=BETWEEN, context=context, candidates=candidates)
        progress = torch.arange(1, BETWEEN + 1).view(1, -1, 1, 1) / (BETWEEN + 1)
        faded = torch.lerp(one.video[:, -1:], other.video[:, :1], progress)
        cut = torch.cat([one.video[:, -1:].expand_as(faded)[:, ::2], other.video[:, :1].expand_as(faded)[:, ::2]], 1)
        ends = [torch.cat([one.video, way, other.video], dim=1) for way in (faded, cut)]
        for row, video in zip(rows.values(), [both.video, *ends], strict=True):
            assert torch.equal(video[:, :SOURCE], one.video) and torch.equal(video[:, -SOURCE:], other.video)
            row.append(replace(both, video=video, captions={"prompt": prompt}))
        pairs.append((one, other))
    figures: Figures = {"pairs": len(pairs)}
    for name, clips in rows.items():
        found = [passage(clip.video, one, other) for clip, (one, other) in zip(clips, pairs, strict=True)]
        figures[f"peak_change{name}"] = typical(peak for peak, _ in found)
        figures[f"rank_correlation{name}"] = typical(rank for _, rank in found)
        middle = slice(SOURCE + BETWEEN // 2 - 4, SOURCE + BETWEEN // 2 + 5)
        readings = judge.judge.read([replace(clip, video=clip.video[:, middle]) for clip in clips])
        figures[f"one_object{name}"] = share(reading.count == 1 for reading in readings)
        figures[f"overlap{name}"] = average(reading.overlap for reading in readings)
    return figures, rows[""]


def passage(video: Tensor, one: Clip, other: Clip) -> tuple[float | None, float]:
    """The largest change over the given clips' median (None: at rest), and how steadily the way leads to the end."""
    way = video[:, SOURCE - 1 : SOURCE + BETWEEN + 1]
    usual = median([*changes(one.video).tolist(), *changes(other.video).tolist()])
    left, right = ((way - way[:, end : end + 1 or None]).abs().mean((0, 2, 3)) for end in (0, -1))
    order = (left / (left + right).clamp(min=1e-6)).argsort().argsort().float()
    rank = torch.corrcoef(torch.stack([order, torch.arange(len(order)).float()]))[0, 1].item()
    return (changes(way).max().item() / usual if usual > MOVES else None), rank


def edited(pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy) -> tuple[Figures, list[Clip]]:
    """The object's colour, the background or the style is changed by the prompt, at several strengths."""
    world = judge.judge.world
    kinds = {"style": judge.judge.styles} if len(judge.judge.styles) > 1 else {}
    kinds |= {"colour": list(world["colours"]), "background": list(world["backgrounds"])}
    truth = places(judge.judge, real)
    others = pipeline.generate([Request.like(clip) for clip in real], seed=9)
    figures: Figures = {"drift_of_another_sample": distance(places(judge.judge, others), truth)}
    shown: list[Clip] = []
    for kind, values in kinds.items():
        for strength in STRENGTHS:
            made = [edit_one(pipeline, clip, kind, values, strength, i) for i, clip in enumerate(real)]
            kept = ("colour", "shape", "motion", "background", "style")
            found = shares(judge, made, kept)
            drift = distance(places(judge.judge, made), truth)
            figures |= {f"{kind}/{strength}/{name}": value for name, value in {**found, "drift": drift}.items()}
            shown += made[:1]
    return figures, shown


def edit_one(
    pipeline: Pipeline, clip: Clip, kind: str, values: Sequence[str], strength: float, number: int
) -> Clip:  # fmt: skip
    """The clip with another value of one attribute; which one goes by its number."""
    old = clip.meta[kind]
    new = values[(values.index(old) + 1 + number % (len(values) - 1)) % len(values)]
    words = STYLE_WORDS[old] if kind == "style" else (old,)
    said = next(word for word in sorted(words, key=len, reverse=True) if word in captioned(clip))
    prompt = re.sub(rf"\b{said}\b", STYLE_WORDS[new][0] if kind == "style" else new, captioned(clip))
    changed = edit(pipeline, clip, prompt, strength=strength)
    return replace(changed, captions={"prompt": f"{strength}: {prompt}"}, meta={**clip.meta, kind: new})


def distance(tracks: Tensor, truth: Tensor) -> Estimate:
    """How far the objects of clips (clips, T, 2) are from where they should be."""
    return average((tracks - truth).norm(dim=-1).nanmean(1))


def previewed(pipeline: Pipeline, real: Sequence[Clip], judge: WorldAccuracy) -> tuple[Figures, list[Clip]]:
    """At twice the size of the clips: first at their own size, then in full; beside a clip made in full at once."""
    frames, height, width = real[0].video.shape[1:]
    large = Judge({**judge.judge.world, "scale": 2 * judge.judge.world["scale"]})
    requests = [replace(Request.like(clip), height=2 * height, width=2 * width) for clip in real]
    began = time.perf_counter()
    small = [preview(pipeline, request) for request in requests]
    seconds = {"preview": time.perf_counter() - began}
    read = judge.judge.read(small)
    figures: Figures = {}
    shown: list[Clip] = []
    for strength in ENLARGED:
        began = time.perf_counter()
        full = [full_size(pipeline, s, r, strength=strength) for s, r in zip(small, requests, strict=True)]
        seconds[f"{strength}"] = time.perf_counter() - began
        again = large.read(full)
        names = ("colour", "shape", "size", "motion", "background")
        same = [[getattr(a, name) == getattr(b, name) for name in names] for a, b in zip(read, again, strict=True)]
        off = (places(large, full) / 2 - places(judge.judge, small)).norm(dim=-1) / width
        figures |= {
            f"{strength}/attributes": average(sum(clip) / len(clip) for clip in same),
            f"{strength}/centre": typical(off.nanmedian(dim=1).values),
        }
        shown += [clip for pair in zip(small[:2], full[:2], strict=True) for clip in pair]
    began = time.perf_counter()
    for request in requests:
        pipeline.generate([request])
    seconds["full"] = time.perf_counter() - began
    return {**figures, **{f"time/{name}": value / seconds["full"] for name, value in seconds.items()}}, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` or benchmarks/tasks_model.py wrote")
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--clips", type=int, default=64, help="of each task")
    parser.add_argument("--candidates", type=int, default=1, help="of which extend, loop and connect keep one")
    parser.add_argument("--only", help="some of the tasks")
    parser.add_argument("--sheets", type=Path, help="folder for a contact sheet of each task")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(TASKS)
    if unknown := set(chosen) - set(TASKS):
        parser.error(f"there is no task {', '.join(unknown)}; known are {', '.join(TASKS)}")
    count = 4 if args.quick else args.clips
    pipeline = Pipeline.load(str(args.demo / "models" / "dit"))
    world = json.loads((args.demo / "world" / "world.json").read_text())
    judge = WorldAccuracy({**world, "events": ["none"]})  # of single scenes
    styles, scale = judge.judge.styles, world["scale"]
    with tempfile.TemporaryDirectory() as name:
        real: dict[int, list[Clip]] = {}
        for frames, sizes in ((1, IMAGES), (SOURCE, VIDEOS), (SOURCE + NEW, VIDEOS)):
            grids = [(frames, scale * height, scale * width) for height, width in sizes]
            settings = {"num_clips": count, "split": "report", "sizes": grids, "scale": scale, "styles": styles}
            dataset = ManifestDataset(make_prompts(Path(name) / str(frames), **settings))
            real[frames] = [dataset[i] for i in range(len(dataset))]
    images, short, long = real[1], real[SOURCE], real[SOURCE + NEW]
    tasks: dict[str, Callable[[], tuple[Figures, list[Clip]]]] = {
        "image": lambda: imaged(pipeline, images, judge),
        "animate": lambda: animated(pipeline, short, judge),
        "extend_forward": lambda: extended(pipeline, long, judge, args.candidates, forward=True),
        "extend_backward": lambda: extended(pipeline, long, judge, args.candidates, forward=False),
        "loop": lambda: looped(pipeline, short, args.candidates),
        "connect": lambda: connected(pipeline, short, judge, args.candidates),
        "edit": lambda: edited(pipeline, short, judge),
        "preview": lambda: previewed(pipeline, short, judge),
    }
    total: dict[str, float | list[float]] = {}
    for task in chosen:
        figures, made = tasks[task]()
        told: list[str] = []
        for key, figure in figures.items():
            if isinstance(figure, Estimate):
                total |= {f"{task}/{key}": figure.value, f"{task}/{key}_interval": [figure.low, figure.high]}
                told.append(f"{key} {figure}")
            else:
                total[f"{task}/{key}"] = figure
                told.append(f"{key} {figure:.3g}")
        print(f"{task}: " + ", ".join(told), flush=True)
        if args.sheets:
            args.sheets.mkdir(parents=True, exist_ok=True)
            write_image(args.sheets / f"{task}.png", sheet(made[:8]))
    print(json.dumps({"clips": count, **total}))


if __name__ == "__main__":
    main()
