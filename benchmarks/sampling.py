"""How the demo's model is best sampled: every guidance over its scales, and what a step cache saves.

    python benchmarks/sampling.py DEMO [--quick] [--clips 256]

DEMO is a folder that `kinema demo` wrote. Judged is how many clips have all of their attributes right (standard error
at 256 clips and 80 %: 2.5 points). Every guidance is tried at several scales within the model's own interval of noise
levels, and the threshold of a step cache with a sampler without fresh noise, beside the same sampler with fewer steps;
what is best on prompts of the split "choose" is then judged on those of "report", neither of which was ever trained on.
The last line is one JSON object: best/GUIDANCE in points of a hundred, and of the fastest step cache that lost at most
one point on "choose" its speed, and its accuracy beside that without.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from kinema.pipeline import Pipeline, Request
from kinema_core import Clip, guidances, samplers
from kinema_data import ManifestDataset
from kinema_data.worlds import make_prompts
from kinema_metrics.world import WorldAccuracy

SCALES = (2.0, 3.5, 5.0, 7.0)
#: Settings beside the scale; `interval` stands around the others, so that all are tried on the same noise levels.
GUIDANCES = {
    "cfg": {},
    "cfg_rescale": {"rescale": 0.7},
    "cfg_zero_star": {},
    "apg": {},
}
STEPS = 40
THRESHOLDS = (0.02, 0.05, 0.1, 0.2)


def judged(pipeline: Pipeline, real: list[Clip], judge: WorldAccuracy) -> tuple[float, float]:
    """The share of clips with all attributes right, and the seconds that generating them took."""
    began = time.perf_counter()
    made = pipeline.generate([Request.like(clip) for clip in real], seed=1)
    seconds = time.perf_counter() - began
    judge.reset()
    judge.update([replace(clip, captions=one.captions) for clip, one in zip(made, real, strict=True)])
    return judge.compute()["all"], seconds


def compared(
    pipeline: Pipeline, splits: dict[str, list[Clip]], judge: WorldAccuracy, scales: tuple[float, ...]
) -> dict[str, float]:
    """Every guidance at every scale, and at its best on other prompts."""
    interval = pipeline.guidance.interval
    figures: dict[str, float] = {}
    for name, settings in GUIDANCES.items():
        found, made = {}, {}
        for scale in scales:
            inner = {"name": name, "scale": scale, **settings}
            guidance = guidances.build({"name": "interval", "base": inner, "interval": interval})
            made[scale] = replace(pipeline, guidance=guidance)
            found[scale], _ = judged(made[scale], splits["choose"], judge)
            figures[f"{name}/{scale}"] = found[scale]
        best = max(found, key=lambda scale: found[scale])
        share, _ = judged(made[best], splits["report"], judge)
        figures |= {f"best/{name}": 100 * share, f"best/{name}/scale": best}
        tried = ", ".join(f"scale {s:g} {100 * v:.1f}" for s, v in found.items())
        print(f"{name}: {tried}; on other prompts, scale {best:g}: {100 * share:.1f}", flush=True)
    return figures


def cached(
    pipeline: Pipeline, splits: dict[str, list[Clip]], judge: WorldAccuracy, thresholds: tuple[float, ...]
) -> dict[str, float]:
    """Quality and time with the step cache, and with fewer steps."""
    figures: dict[str, float] = {}
    for sampler in ("euler", "dpmpp_2m"):
        whole = replace(pipeline, sampler=samplers.build({"name": sampler}), num_steps=STEPS)
        full, seconds = judged(whole, splits["choose"], judge)
        figures[f"{sampler}/{STEPS}"] = full
        print(f"{sampler}, {STEPS} steps: {100 * full:.1f}, {seconds:.1f} s", flush=True)
        tried = {f"cache {threshold}": replace(whole, step_cache=threshold) for threshold in thresholds}
        tried |= {f"{steps} steps": replace(whole, num_steps=steps) for steps in (STEPS // 2, STEPS // 3)}
        speeds = {"nothing": 1.0}
        for name, changed in tried.items():
            share, taken = judged(changed, splits["choose"], judge)
            figures |= {f"{sampler}/{name}": share, f"{sampler}/{name}/speed": seconds / taken}
            print(f"{sampler}, {name}: {100 * share:.1f}, {seconds / taken:.2f} times as fast", flush=True)
            if name.startswith("cache") and share >= full - 0.01:
                speeds[name] = seconds / taken
        best = max(speeds, key=lambda name: speeds[name])
        shares = [judged(one, splits["report"], judge) for one in (whole, tried.get(best, whole))]
        (before, slow), (after, fast) = shares
        figures |= {f"{sampler}/without": 100 * before, f"{sampler}/best_cache": 100 * after}
        figures[f"{sampler}/cache_speed"] = slow / fast
        print(
            f"{sampler}, {best}, on other prompts: {100 * before:.1f} -> {100 * after:.1f}, "
            f"{slow / fast:.2f} times as fast",
            flush=True,
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--clips", type=int, default=256, help="of each setting")
    args = parser.parse_args()
    count, scales, thresholds = (16, SCALES[2:3], THRESHOLDS[2:3]) if args.quick else (args.clips, SCALES, THRESHOLDS)
    pipeline = Pipeline.load(str(args.demo / "models" / "dit"))
    judge = WorldAccuracy(args.demo / "world" / "world.json")
    with tempfile.TemporaryDirectory() as name:
        splits: dict[str, list[Clip]] = {}
        for split in ("choose", "report"):
            dataset = ManifestDataset(make_prompts(Path(name) / split, num_clips=count, split=split, seed=1))
            splits[split] = [dataset[i] for i in range(len(dataset))]
    own, seconds = judged(pipeline, splits["report"], judge)
    print(f"as the model's folder says: {100 * own:.1f}, {seconds:.1f} s", flush=True)
    figures = {"clips": count, "own": own}
    figures |= compared(pipeline, splits, judge, scales)
    figures |= cached(pipeline, splits, judge, thresholds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
