"""`causal3d` against diffusers' `AutoencoderKLWan`: equal parameters, equal wall time, in the same training loop.

    python benchmarks/vae_quality.py [--quick] [--minutes 5]

Both are trained from scratch by `kinema train vae` at three learning rates each, one thread a run and two runs side by
side, on a made world of 64 pixels and more with texture, noise and a camera that pans; both code 4 x 8 x 8 blocks in 16
channels. Then the preset `small` is trained for twelve times as long on two threads, in bfloat16 where the machine
computes faster in it, and goes on against a discriminator for twice as long. Judged are clips that were not trained on.
The last line is one JSON object: gain_db is our best PSNR of videos over theirs.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import torch
from commands import kinema
from kinema.components import build
from kinema_core import vaes
from kinema_data.worlds import Look, make_world

#: 2.5 million parameters each.
NETWORKS = {
    "ours": {"name": "causal3d", "preset": "small", "widths": [64, 128], "num_blocks": 1},
    "theirs": {"name": "diffusers_wan", "width": 16, "num_blocks": 1},
}
#: Times the learning rates of the demo's VAE.
RATES = (0.3, 1.0, 3.0)
LOOK = Look(texture=10, noise=3, camera=12)


def train(folder: Path, name: str, network: dict[str, object], minutes: float, *words: str, threads: int = 1) -> None:
    """`kinema train vae` with the demo's rates unless `words` say otherwise."""
    trainer = f"trainer={{max_minutes: {minutes}, accelerator: cpu, threads: {threads}, ema: 0.99}}"
    rates = ("optim.lr=3e-3", "optim.muon_lr=2e-2", "optim.decay=0.9")
    shared = (f"vae={json.dumps(network)}", trainer, f"run.out={name}", "validation=null")
    kinema(folder, "train", "vae", *shared, *rates, *words)


def judge(folder: Path, name: str, *words: str) -> dict[str, float]:
    """PSNR in dB of "video" and of "image", and what was measured over all clips."""
    out = f"figures/{name}"
    kinema(folder, "evaluate", "vae", f"model={name}", "data.path=world", "data.split=report", f"out={out}", *words)
    report = json.loads((folder / out / "report.json").read_text())
    found = {}
    for kind, image in (("video", False), ("image", True)):
        some = [row for size, row in report["sizes"].items() if size.startswith("1x") == image]
        found[kind] = sum(row["psnr"] * row["clips"] for row in some) / sum(row["clips"] for row in some)
    print(f"{name}: video {found['video']:.2f} dB, image {found['image']:.2f} dB", flush=True)
    return {**report["all"], **found}


def compare(folder: Path, minutes: float, rates: tuple[float, ...]) -> dict[str, float]:
    """The PSNR of each network at each rate, and the gain of the best of ours over the best of theirs."""

    def run(job: tuple[str, float]) -> dict[str, float]:
        who, rate = job
        name = f"{who}-{rate}"
        train(folder, name, NETWORKS[who], minutes, f"optim.lr={3e-3 * rate}", f"optim.muon_lr={2e-2 * rate}")
        return judge(folder, name)

    jobs = [(who, rate) for rate in rates for who in NETWORKS]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, jobs))
    figures = {
        f"{who}/{rate}/{kind}": row[kind]
        for (who, rate), row in zip(jobs, found, strict=True)
        for kind in ("video", "image")
    }
    best = {who: max(row["video"] for (w, _), row in zip(jobs, found, strict=True) if w == who) for who in NETWORKS}
    return {**figures, "gain_db": best["ours"] - best["theirs"]}


def adversarial(folder: Path, minutes: float) -> dict[str, float]:
    """The preset `small` after `minutes`, after twice as many on squared error alone, and against a discriminator."""
    small = {"name": "causal3d", "preset": "small"}
    precision = f"trainer.precision={'bf16-mixed' if faster_in_bf16() else '32-true'}"
    finer = ("optim.lr=2e-3", "optim.muon_lr=1.2e-2", "optim.decay=1.0", "l1=0", "kl=1e-6", precision)
    gan = ("gan={weight: 0.1, start: 0}", "optim.lr=1e-3", "optim.muon_lr=5e-3", "l1=0", "kl=1e-6", precision)
    train(folder, "small-first", small, minutes, precision, threads=2)
    train(folder, "small", {**small, "init_from": "small-first"}, 2 * minutes, *finer, threads=2)
    train(folder, "small-gan", {**small, "init_from": "small"}, minutes / 2, *gan, threads=2)
    kinema(
        folder,
        "train",
        "clip",
        f"trainer={{max_minutes: {minutes / 4}, accelerator: cpu}}",
        "validation=null",
        "run.out=clip",
    )
    figures: dict[str, float] = {"small/minutes": 3 * minutes, "small-gan/minutes": minutes / 2}
    for name in ("small-first", "small", "small-gan"):
        row = judge(folder, name, "clip=clip", "metrics.fvd={name: fvd}")
        figures.update({f"{name}/{key}": value for key, value in row.items()})
    return figures


def faster_in_bf16() -> bool:
    """Whether a plain convolution takes less time in bfloat16 than in float32 on this machine."""

    def seconds(dtype: torch.dtype) -> float:
        x, weight = torch.rand(1, 96, 6, 32, 32).to(dtype), torch.rand(96, 96, 3, 3, 3).to(dtype)
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            torch.nn.functional.conv3d(x, weight, padding=1)
            taken.append(time.perf_counter() - began)
        return median(taken)

    return seconds(torch.bfloat16) < seconds(torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each of the six trainings")
    args = parser.parse_args()
    minutes, clips, rates = (0.1, 200, RATES[1:2]) if args.quick else (args.minutes, 3000, RATES)
    for who, settings in NETWORKS.items():
        print(f"{who}: {sum(p.numel() for p in build(vaes, settings).parameters()) / 1e6:.2f} M parameters", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_world(folder / "world", num_clips=clips, scale=2, look=LOOK, splits={"train": 0.9, "report": 0.1})
        figures = {"minutes": minutes, **compare(folder, minutes, rates)}
        if not args.quick:
            figures.update(adversarial(folder, 4 * minutes))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
