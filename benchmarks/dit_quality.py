"""`video_dit` against diffusers' Wan transformer: equal parameters, equal wall time, in the same training loop.

    python benchmarks/dit_quality.py [--quick] [--minutes 8] [--demo FOLDER]

Both are trained from scratch by `kinema train dit` on latents of the demo's VAE at three learning rates each, one
thread a run and two runs side by side; then video_dit with window and with block-causal attention, at the best of its
rates. Judged is how many clips of prompts never seen have all of their attributes right. `--demo` takes the world, VAE
and cache of a folder that `kinema demo` wrote, which saves making them. The last line is one JSON object: gain_all is
our best over theirs, in points of a hundred.
"""

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from commands import kinema
from kinema.components import build
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
    """Train, generate and judge one: shares of clips by attribute."""
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
    print(f"{name}: " + ", ".join(f"{key} {100 * row[key]:.0f}" for key in ATTRIBUTES), flush=True)
    return {key: row[key] for key in ATTRIBUTES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each training")
    parser.add_argument("--demo", type=Path, help="a folder that `kinema demo` wrote")
    args = parser.parse_args()
    minutes, rates = (0.1, RATES[1:2]) if args.quick else (args.minutes, RATES)
    widths = {"latent_channels": 12, "text_widths": (128,), "pooled_widths": (128,)}
    for who, settings in NETWORKS.items():
        count = sum(p.numel() for p in build(dits, settings, **widths).parameters())
        print(f"{who}: {count / 1e6:.2f} M parameters", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args.demo, quick=args.quick)
        print(json.dumps({"minutes": minutes, **compare(folder, minutes, rates)}))


def compare(folder: Path, minutes: float, rates: tuple[float, ...]) -> dict[str, float]:
    """All figures: of both networks at each rate, of ours with other attention, and the gain."""

    def peer(job: tuple[str, float]) -> dict[str, float]:
        who, rate = job
        return run(folder, f"{who}-{rate}", NETWORKS[who], rate, minutes)

    def best(who: str) -> float:
        return max(rates, key=lambda rate: found[who, rate]["all"])

    def mode(name: str) -> dict[str, float]:
        return run(folder, name, {**NETWORKS["ours"], **ATTENTION[name]}, best("ours"), minutes)

    jobs = [(who, rate) for rate in rates for who in NETWORKS]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(jobs, pool.map(peer, jobs), strict=True))
        modes = dict(zip(ATTENTION, pool.map(mode, ATTENTION), strict=True))
    rows = {f"{who}/{rate}": row for (who, rate), row in found.items()} | modes
    gain = 100 * (found["ours", best("ours")]["all"] - found["theirs", best("theirs")]["all"])
    return {f"{name}/{key}": value for name, row in rows.items() for key, value in row.items()} | {"gain_all": gain}


def _config(name: str) -> str:
    return str(files("kinema").joinpath("configs", "demo", f"{name}.yaml"))


if __name__ == "__main__":
    main()
