"""A minute of video at 24 frames a second, in one sequence and window by window, by the demo's model.

    python benchmarks/long.py DEMO [--quick] [--minutes 8] [--clips 4]
    python benchmarks/long.py DEMO --rollout OUT --window 33 --context 5

DEMO is a folder that `kinema demo` wrote. Its transformer goes on for some minutes on clips of 5 seconds to a minute,
and then makes a minute in one sequence; the demo's own makes one of windows, or the model of OUT, a folder that
`benchmarks/tasks_model.py` wrote. Each is `kinema generate` in a process of its own, whose peak memory is told, beside
that of 5 seconds. Judged is in how many clips a second's colour and shape are those of the first second, after 1, 10
and 59 seconds. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

from commands import run

RATE = 24
#: Frames of 5 seconds and of a minute, legal for a temporal stride of 4.
SHORT, LONG = 121, 1441
LAGS = (1, 10, 59)
PROMPTS = (
    "a large red circle stays still on a black background",
    "a large blue square orbits on a white background",
    "a medium green triangle bounces on a grey background",
    "a large yellow cross moves to the right on a black background",
)


def tuned(folder: Path, demo: Path, minutes: float, *, quick: bool) -> None:
    """The model "long": the demo's, gone on with on long clips."""
    sizes, clips = (SHORT, 241, 481, LONG), 24 if quick else 240
    shapes = ",".join(f"{frames}x32x32" for frames in sizes)
    run(
        folder, "data", "make-world", "world", "--split=train", f"--clips={clips}", f"--sizes={shapes}", f"--fps={RATE}"
    )
    run(folder, "encode", f"model={demo / 'models' / 'vae'}", "out=cache", "data.split=null")
    model = demo / "models" / "dit"
    config = Path(__file__).parents[1] / "apps" / "src" / "kinema" / "configs" / "demo" / "dit.yaml"
    weights = [f"{key}.weights={model / key / 'model.safetensors'}" for key in ("dit", "text.main")]
    run(
        folder,
        *["train", "dit", f"--config={config}", f"vae={demo / 'models' / 'vae'}", *weights, "run.out=long"],
        # A clip of a minute has 23,104 cells.
        *["batch_cells=98304", "diffusion.time_mean=0.8", "keep_share=0.3", "optim.decay=1", "optim.lr=1e-3"],
        *[
            "optim.muon_lr=3e-3",
            "validation=null",
            "samples.clips=0",
            f"trainer.max_minutes={minutes}",
            "trainer.max_steps=null",
        ],
    )


def kept(folder: Path, world: Path) -> dict[str, float]:
    """In how many of a folder's videos colour and shape are those of the first second, by seconds that have passed."""
    # After the commands, so that their memory is not measured above this process's own.
    from kinema_core import Clip  # noqa: PLC0415
    from kinema_data import read_clip, read_metadata, to_float  # noqa: PLC0415
    from kinema_metrics.world import Judge  # noqa: PLC0415

    judge = Judge(world)
    found: dict[str, list[bool]] = {f"{name} after {lag} s": [] for lag in LAGS for name in ("colour", "shape")}
    for file in sorted(folder.glob("*.mp4")):
        frames, height = read_clip(str(file)).frames, read_metadata(file)["size"][1]
        step = frames.shape[1] // height  # files are enlarged, so that players show them
        video = to_float(frames).unflatten(2, (height, step)).unflatten(4, (-1, step)).mean((3, 5))
        seconds = [Clip(f"{lag}", video[:, RATE * lag : RATE * lag + 9], RATE) for lag in (0, *LAGS)]
        first, *later = judge.read(seconds)
        for lag, reading in zip(LAGS, later, strict=True):
            for name in ("colour", "shape"):
                same = getattr(reading, name) is not None and getattr(reading, name) == getattr(first, name)
                found[f"{name} after {lag} s"].append(same)
    return {name: mean(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training on long clips")
    parser.add_argument("--clips", type=int, default=4, help="of each kind, at most 4")
    parser.add_argument("--rollout", type=Path, help="a folder like DEMO, whose model makes the windows")
    parser.add_argument("--window", type=int, default=17, help="frames that are made at once")
    parser.add_argument("--context", type=int, default=3, help="latent frames that a window goes on from")
    args = parser.parse_args()
    demo, clips, minutes = args.demo.resolve(), (1 if args.quick else args.clips), (0.1 if args.quick else args.minutes)
    size = ["--height=32", "--width=32", f"--fps={RATE}", *(["--steps=2"] if args.quick else [])]
    own = str((args.rollout or demo).resolve() / "models" / "dit")
    windows = [f"--window={args.window}", f"--context={args.context}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tuned(folder, demo, minutes, quick=args.quick)
        kinds = {
            "sequence": ["long", f"--frames={LONG}"],
            "rollout": [own, f"--frames={LONG}", *windows],
            "rollout of 5 s": [own, f"--frames={SHORT}", *windows],
        }
        runs = {
            kind: run(folder, "generate", words[0], *PROMPTS[:clips], *words[1:], *size, f"--out={kind}")
            for kind, words in kinds.items()
        }
        figures: dict[str, float] = {"minutes": minutes, "clips": clips}
        for kind, taken in runs.items():
            figures |= {f"{kind}/seconds": taken.seconds / clips, f"{kind}/GiB": taken.bytes / 2**30}
            print(f"{kind}: {taken.seconds / clips:.0f} s a clip, {taken.bytes / 2**30:.2f} GiB", flush=True)
        figures["memory_ratio"] = runs["rollout"].bytes / runs["rollout of 5 s"].bytes
        for kind in ("sequence", "rollout"):
            shares = kept(folder / kind, folder / "world" / "world.json")
            figures |= {f"{kind}/{name}": share for name, share in shares.items()}
            print(f"{kind}: " + ", ".join(f"{name} {100 * share:.0f}" for name, share in shares.items()), flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
