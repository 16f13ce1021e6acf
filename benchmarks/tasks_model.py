"""The demo's model, gone on with on a world in which things happen: scenes turn into others, objects leave and return.

    python benchmarks/tasks_model.py DEMO OUT [--minutes 25]
    python benchmarks/tasks_model.py DEMO OUT --time-stride 2 trainer.precision=bf16-mixed compile=true
    python benchmarks/tasks_model.py DEMO OUT --events none --styles flat,outline,textured,pixelated --scale 2

DEMO is a folder that `kinema demo` wrote; OUT will be one like it, with a world, a VAE and a transformer, which
`benchmarks/tasks.py` measures; words KEY=VALUE are settings of `kinema train dit`. A loop and a connection need more
than the demo's clips show: objects that come back, scenes that change, clips of up to 61 frames, and training masks
with both ends given. Editing styles needs objects of which a latent is a small part: twice the size. The VAE goes on
first, for four minutes: on colours between the demo's or on the styles, and with a weight on flicker. One of another
stride in time begins anew. DEMO can be a folder that this script made, too.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from commands import kinema

CONFIGS = Path(__file__).parents[1] / "apps" / "src" / "kinema" / "configs" / "demo"
#: Drawn evenly, so what is named twice happens twice as often; where it has no room, nothing happens.
EVENTS = "none,change,change,change,swing,swing,swing,swing,leave"


def made(
    folder: Path,
    demo: Path,
    minutes: float,
    settings: Sequence[str],
    *,
    events: str,
    styles: str,
    scale: int,
    stride: int,
    quick: bool,
) -> None:
    """World, VAE and transformer in `folder`; the transformer's training takes more settings."""
    clips, eventful = 200 if quick else 10000, events != "none"
    world = ["world", f"--clips={clips}", f"--events={events}", f"--styles={styles}", f"--scale={scale}", "--workers=2"]
    kinema(folder, "data", "make-world", *world)
    model = demo / "models"
    gone_on_with = [f"vae.init_from={model / 'vae'}", "optim.lr=2e-3", "optim.muon_lr=1e-2"]
    vae = gone_on_with if stride == 4 else [f"vae.unshuffle=[{stride}, 4, 4]"]
    kinema(
        folder,
        *["train", "vae", f"--config={CONFIGS / 'vae.yaml'}", *vae, "run.out=models/vae"],
        # Its largest jumps are from one latent frame to the next, which is where new frames begin.
        *[f"flicker={10 if eventful else 4}", f"batch_pixels={262144 * scale}"],
        *["trainer.devices=2", f"trainer.max_minutes={0.1 if quick else 4}", "trainer.max_steps=null"],
    )
    kinema(folder, "encode", "model=models/vae", "out=cache")
    weights = [f"{key}.weights={model / 'dit' / key / 'model.safetensors'}" for key in ("dit", "text.main")]
    masks = ["keep_share=0.6", "keep_weights={ends: 3, head: 3, tail: 3}"] if eventful else ["keep_share=0.1"]
    rates = ["optim.lr=2e-3", "optim.muon_lr=7e-3", "optim.decay=1", "diffusion.time_mean=0.8"]
    length = [f"trainer.max_minutes={0.1 if quick else minutes}", "trainer.max_steps=null"]
    # Gradients of few clips are noise; twice the size or half the stride is more cells a clip.
    length.append(f"batch_cells={4096 * (1 + scale) * (4 // stride)}")
    # Given frames say much of what is to come: less guidance keeps to them.
    samples = [*(["samples.guidance.scale=2"] if eventful else []), *(["samples.clips=4"] if quick else [])]
    kinema(
        folder,
        *["train", "dit", f"--config={CONFIGS / 'dit.yaml'}", "vae=models/vae", "run.out=models/dit"],
        *[*weights, *masks, *rates, *length, *samples, *settings],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    parser.add_argument("settings", nargs="*", help="more of the transformer's training, as compile=true")
    parser.add_argument("--minutes", type=float, default=25.0, help="of training the transformer, two processes")
    parser.add_argument("--events", default=EVENTS, help="what may happen in a clip")
    parser.add_argument("--styles", default="flat", help="how objects are drawn")
    parser.add_argument("--scale", type=int, default=1, help="multiplies all sizes of the world")
    parser.add_argument("--time-stride", type=int, default=4, choices=(1, 2, 4), help="frames a latent of the VAE")
    parser.add_argument("--quick", action="store_true", help="a small world, seconds of training")
    args = parser.parse_intermixed_args()
    args.out.mkdir(parents=True)
    world = {"events": args.events, "styles": args.styles, "scale": args.scale, "stride": args.time_stride}
    made(args.out, args.demo.resolve(), args.minutes, args.settings, **world, quick=args.quick)
    print(f"wrote world and models to {args.out}")


if __name__ == "__main__":
    main()
