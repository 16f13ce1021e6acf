"""How the demo's model is best sampled: every guidance over its scales, and what a step cache saves.

    python benchmarks/sampling.py DEMO [--quick] [--clips 256]

DEMO is a folder that `kinema demo` wrote. Judged is how many clips of prompts that were never seen have all of their
attributes right (standard error at 256 clips and 80 %: 2.5 points). Every guidance is tried at several scales within
the model's own interval of noise levels. The step cache is tried with a sampler without fresh noise, over thresholds,
beside the same sampler with fewer steps. The last line is one JSON object: best/GUIDANCE in points of a hundred, and
cache_speed, the greatest gain in time at a loss of at most one point.
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


def compared(pipeline: Pipeline, real: list[Clip], judge: WorldAccuracy, scales: tuple[float, ...]) -> dict[str, float]:
    """Every guidance at every scale."""
    interval = pipeline.guidance.interval
    figures: dict[str, float] = {}
    for name, settings in GUIDANCES.items():
        found = {}
        for scale in scales:
            inner = {"name": name, "scale": scale, **settings}
            guidance = guidances.build({"name": "interval", "base": inner, "interval": interval})
            found[scale], _ = judged(replace(pipeline, guidance=guidance), real, judge)
            figures[f"{name}/{scale}"] = found[scale]
        best = max(found, key=lambda scale: found[scale])
        figures[f"best/{name}"] = 100 * found[best]
        print(f"{name}: " + ", ".join(f"scale {s:g} {100 * v:.1f}" for s, v in found.items()), flush=True)
    return figures


def cached(
    pipeline: Pipeline, real: list[Clip], judge: WorldAccuracy, thresholds: tuple[float, ...]
) -> dict[str, float]:
    """Quality and time with the step cache, and with fewer steps."""
    figures: dict[str, float] = {"cache_speed": 1.0}
    for sampler in ("euler", "dpmpp_2m"):
        whole = replace(pipeline, sampler=samplers.build({"name": sampler}), num_steps=STEPS)
        best, seconds = judged(whole, real, judge)
        print(f"{sampler}, {STEPS} steps: {100 * best:.1f}, {seconds:.1f} s", flush=True)
        figures[f"{sampler}/{STEPS}"] = best
        for threshold in thresholds:
            share, taken = judged(replace(whole, step_cache=threshold), real, judge)
            figures |= {f"{sampler}/cache {threshold}": share, f"{sampler}/cache {threshold}/speed": seconds / taken}
            if share >= best - 0.01:
                figures["cache_speed"] = max(figures["cache_speed"], seconds / taken)
            print(
                f"{sampler}, step cache {threshold}: {100 * share:.1f}, {seconds / taken:.2f} times as fast", flush=True
            )
        for steps in (STEPS // 2, STEPS // 3):
            share, taken = judged(replace(whole, num_steps=steps), real, judge)
            figures |= {f"{sampler}/{steps}": share, f"{sampler}/{steps}/speed": seconds / taken}
            print(f"{sampler}, {steps} steps: {100 * share:.1f}, {seconds / taken:.2f} times as fast", flush=True)
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
        folder = make_prompts(Path(name) / "prompts", num_clips=count, split="report", seed=1)
        dataset = ManifestDataset(folder)
        real = [dataset[i] for i in range(len(dataset))]
    own, seconds = judged(pipeline, real, judge)
    print(f"as the model's folder says: {100 * own:.1f}, {seconds:.1f} s", flush=True)
    figures = {"clips": count, "own": own}
    figures |= compared(pipeline, real, judge, scales)
    figures |= cached(pipeline, real, judge, thresholds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
