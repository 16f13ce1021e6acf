"""The demo's model, gone on with on a world in which things happen: scenes turn into others, objects leave and return.

    python benchmarks/tasks_model.py DEMO OUT [--minutes 10] [--events none,change,...] [--styles flat,outline,...]

DEMO is a folder that `kinema demo` wrote; OUT will be one like it, with a world, a VAE and a transformer, which
`benchmarks/tasks.py` measures. A loop and a connection need more than the demo's clips show: objects that come back,
scenes that change, clips of up to 61 frames, and training masks with both ends given. Where objects are drawn in more
styles than the demo's, its VAE goes on too.
"""

import argparse
from pathlib import Path

from commands import kinema

CONFIGS = Path(__file__).parents[1] / "apps" / "src" / "kinema" / "configs" / "demo"
#: Drawn evenly, so what is named twice happens twice as often; where it has no room, nothing happens.
EVENTS = "none,change,change,change,swing,swing,swing,swing,leave"


def made(folder: Path, demo: Path, minutes: float, *, events: str, styles: str, quick: bool) -> None:
    """World, VAE and transformer in `folder`."""
    clips = 200 if quick else 10000
    world = ["world", f"--clips={clips}", f"--events={events}", f"--styles={styles}", "--workers=2"]
    kinema(folder, "data", "make-world", *world)
    vae = demo / "models" / "vae"
    if styles != "flat":
        words = [f"vae.init_from={vae}", "batch_pixels=131072", f"trainer.max_minutes={0.1 if quick else 5}"]
        kinema(folder, "train", "vae", f"--config={CONFIGS / 'vae.yaml'}", *words, "run.out=models/vae")
        vae = folder / "models" / "vae"
    kinema(folder, "encode", f"model={vae}", "out=cache")
    model = demo / "models" / "dit"
    weights = [f"{key}.weights={model / key / 'model.safetensors'}" for key in ("dit", "text.main")]
    masks = ["keep_share=0.6", "keep_weights={ends: 3, head: 2, tail: 2}"]
    rates = ["optim.lr=2e-3", "optim.muon_lr=7e-3", "optim.decay=1", "diffusion.time_mean=0.8"]
    length = [f"trainer.max_minutes={0.1 if quick else minutes}", "trainer.max_steps=null", "batch_cells=8192"]
    samples = ["samples.clips=4"] if quick else []
    kinema(
        folder,
        *["train", "dit", f"--config={CONFIGS / 'dit.yaml'}", f"vae={vae}", "run.out=models/dit"],
        *[*weights, *masks, *rates, *length, *samples],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training the transformer, two processes")
    parser.add_argument("--events", default=EVENTS, help="what may happen in a clip")
    parser.add_argument("--styles", default="flat", help="how objects are drawn")
    parser.add_argument("--quick", action="store_true", help="a small world, seconds of training")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    made(args.out, args.demo.resolve(), args.minutes, events=args.events, styles=args.styles, quick=args.quick)
    print(f"wrote world and models to {args.out}")


if __name__ == "__main__":
    main()
