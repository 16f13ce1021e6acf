"""`video_dit` against diffusers' Wan transformer: equal parameters, equal wall time, in the same training loop.

    python benchmarks/dit_quality.py [--quick] [--minutes 8] [--demo FOLDER] [--attention RATE]

Both are trained from scratch by `kinema train dit` on latents of the demo's VAE at three learning rates each, one
thread a run and two runs side by side. Then video_dit with full, window and block-causal attention at the best of its
rates, three runs side by side on two cores; `--attention` is this part alone. Judged is how many clips of prompts never
seen have all of their attributes right. `--demo` takes the world, VAE and cache of a folder that `kinema demo` wrote,
which saves making them. The last line is one JSON object: gain_all is our best over theirs, in points of a hundred.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from commands import kinema
from kinema.components import build
from kinema.model_folder import load_model
from kinema_core import dits
from kinema_data.worlds import make_world

#: 1.6 million parameters each, beside the same text encoder.
NETWORKS = {
    "ours": {
        "name": "video_dit",
        "width": 128,
        "depth": 6,
        "num_heads": 4,
        "cross_every": 2,
        "rope_theta": 100,
        "activation": "gelu",
    },
    "theirs": {"name": "diffusers_wan", "width": 128, "depth": 6, "num_heads": 4, "ffn_ratio": 3.2},
}
ATTENTION = {
    "full": {},
    "window": {"attention": "window", "window": [3, 4, 4]},
    "block_causal": {"attention": "block_causal", "block": 1, "context": 2},
}
#: Times the learning rates of the demo's transformer.
RATES = (0.3, 1.0, 3.0)
ATTRIBUTES = ("colour", "shape", "size", "motion", "background", "all")


def prepare(folder: Path, demo: Path | None, *, quick: bool) -> None:
    """World, VAE, cache and prompts in `folder`."""
    if demo is None:
        clips = 400 if quick else 8000
        make_world(folder / "world", num_clips=clips, splits={"train": 0.9, "choose": 0.05, "report": 0.05})
        minutes = [f"trainer.max_minutes={0.1 if quick else 4}"]
        kinema(folder, "train", "vae", f"--config={_config('vae')}", "run.out=vae", "validation=null", *minutes)
        kinema(folder, "encode", "model=vae", "out=cache")
    else:
        for name, source in (("world", "world"), ("vae", "models/vae"), ("cache", "cache")):
            (folder / name).symlink_to((demo / source).resolve())
    count = 16 if quick else 256
    kinema(folder, "data", "make-world", "prompts", "--split=report", f"--clips={count}", "--sizes=9x32x32", "--seed=1")


def run(folder: Path, name: str, network: dict[str, object], rate: float, minutes: float) -> dict[str, float]:
    """Train, generate and judge one: shares of clips by attribute, and the steps that there was time for."""
    shared = ["train", "dit", f"--config={_config('dit')}", "vae=vae", f"dit={json.dumps(network)}"]
    # Batches of half the demo's size: one thread makes more of many small steps.
    mixed = [
        "batch_cells=3072",
        "diffusion.time_mean=1.2",
        "keep_share=0.5",
        "keep_weights={first: 5}",
        "samples.clips=0",
    ]
    rates = [f"optim.lr={3e-3 * rate}", f"optim.muon_lr={1e-2 * rate}", "optim.decay=0.5"]
    trainer = (
        f"trainer={{max_minutes: {minutes}, max_steps: null, accelerator: cpu, devices: 1, threads: 1, ema: 0.997}}"
    )
    kinema(folder, *shared, *mixed, *rates, trainer, f"run.out={name}")
    world = "metrics.world={name: world, world: world/world.json}"
    out = f"figures/{name}"
    kinema(
        folder,
        "evaluate",
        f"model={name}",
        "data.path=prompts",
        "data.split=null",
        "rows=[generated]",
        world,
        f"out={out}",
    )
    row = json.loads((folder / out / "report.json").read_text())["rows"]["generated"]
    steps = load_model(folder / name).facts["steps"]
    print(f"{name}: {steps} steps, " + ", ".join(f"{key} {100 * row[key]:.0f}" for key in ATTRIBUTES), flush=True)
    return {"steps": steps, **{key: row[key] for key in ATTRIBUTES}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each training")
    parser.add_argument("--demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("--attention", type=float, help="only the kinds of attention, at RATE times the rates")
    args = parser.parse_args()
    minutes, rates = (0.1, RATES[1:2]) if args.quick else (args.minutes, RATES)
    widths = {"latent_channels": 12, "text_widths": (128,), "pooled_widths": (128,)}
    for who, settings in NETWORKS.items():
        count = sum(p.numel() for p in build(dits, settings, **widths).parameters())
        print(f"{who}: {count / 1e6:.2f} M parameters", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args.demo, quick=args.quick)
        if args.attention:
            rows = attentions(folder, minutes, args.attention)
        else:
            found = peers(folder, minutes, rates)
            best = {who: max(rates, key=lambda rate: found[who, rate]["all"]) for who in NETWORKS}
            rows = {f"{who}/{rate}": row for (who, rate), row in found.items()}
            rows |= attentions(folder, minutes, best["ours"])
        figures = {f"{name}/{key}": value for name, row in rows.items() for key, value in row.items()}
        if not args.attention:
            ours, theirs = (found[who, best[who]]["all"] for who in NETWORKS)
            figures["gain_all"] = 100 * (ours - theirs)
        print(json.dumps({"minutes": minutes, **figures}))


def peers(folder: Path, minutes: float, rates: Sequence[float]) -> dict[tuple[str, float], dict[str, float]]:
    """Both networks at each rate, side by side at the same one."""

    def one(job: tuple[str, float]) -> dict[str, float]:
        who, rate = job
        return run(folder, f"{who}-{rate}", NETWORKS[who], rate, minutes)

    jobs = [(who, rate) for rate in rates for who in NETWORKS]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(jobs, pool.map(one, jobs), strict=True))


def attentions(folder: Path, minutes: float, rate: float) -> dict[str, dict[str, float]]:
    """video_dit with each kind of attention, all at once, so that none has more of the machine."""

    def one(name: str) -> dict[str, float]:
        return run(folder, name, {**NETWORKS["ours"], **ATTENTION[name]}, rate, minutes)

    with ThreadPoolExecutor(len(ATTENTION)) as pool:
        return dict(zip(ATTENTION, pool.map(one, ATTENTION), strict=True))


def _config(name: str) -> str:
    return str(files("kinema").joinpath("configs", "demo", f"{name}.yaml"))


if __name__ == "__main__":
    main()
