"""The demo's model, gone on with on a world in which things happen: scenes turn into others, objects leave and return.

    python benchmarks/tasks_model.py DEMO OUT [--minutes 40] [--events none,change,...] [--styles flat,outline,...]

DEMO is a folder that `kinema demo` wrote; OUT will be one like it, with a world, a VAE and a transformer, which
`benchmarks/tasks.py` measures. A loop and a connection need more than the demo's clips show: objects that come back,
scenes that change, clips of up to 61 frames, and training masks with both ends given. The VAE is a new one, with twice
the demo's latent channels and a weight on flicker: new frames begin where one latent frame follows another, and there a
VAE's errors change at once. The transformer's blocks go on from the demo's.
"""

import argparse
from pathlib import Path

import torch
from commands import kinema
from safetensors.torch import load_file, save_file

CONFIGS = Path(__file__).parents[1] / "apps" / "src" / "kinema" / "configs" / "demo"
#: Drawn evenly, so what is named twice happens twice as often; where it has no room, nothing happens.
EVENTS = "none,change,change,change,swing,swing,swing,swing,leave"
#: Of the latents, and of the demo's.
CHANNELS, DEMO_CHANNELS = 24, 12


def widened(source: Path, target: Path) -> Path:
    """The demo's transformer for latents of `CHANNELS`: its first and last layer are new."""
    weights = load_file(source)
    width, cells = weights["embed.weight"].shape[0], weights["embed.weight"].shape[1] // DEMO_CHANNELS
    values = cells * CHANNELS  # of a token
    weights["embed.weight"] = torch.randn(width, values, generator=torch.Generator().manual_seed(0)) * values**-0.5
    weights["project.weight"], weights["project.bias"] = torch.zeros(values, width), torch.zeros(values)
    save_file(weights, target)
    return target


def made(folder: Path, demo: Path, minutes: float, *, events: str, styles: str, quick: bool) -> None:
    """World, VAE and transformer in `folder`."""
    text, dit = (demo / "models" / "dit" / key / "model.safetensors" for key in ("text.main", "dit"))
    weights = [f"text.main.weights={text}", f"dit.weights={widened(dit, folder / 'widened.safetensors')}"]
    clips = 200 if quick else 10000
    world = ["world", f"--clips={clips}", f"--events={events}", f"--styles={styles}", "--workers=2"]
    kinema(folder, "data", "make-world", *world)
    kinema(
        folder,
        *["train", "vae", f"--config={CONFIGS / 'vae.yaml'}", f"vae.latent_channels={CHANNELS}", "run.out=models/vae"],
        *["flicker=6", "batch_pixels=262144", "optim.lr=2e-3", "optim.muon_lr=1.2e-2"],
        *["trainer.devices=2", f"trainer.max_minutes={0.1 if quick else 14}", "trainer.max_steps=null"],
    )
    kinema(folder, "encode", "model=models/vae", "out=cache")
    masks = ["keep_share=0.6", "keep_weights={ends: 3, head: 3, tail: 3}"]
    rates = ["optim.lr=2e-3", "optim.muon_lr=7e-3", "optim.decay=1", "diffusion.time_mean=1.0"]
    length = [f"trainer.max_minutes={0.1 if quick else minutes}", "trainer.max_steps=null", "batch_cells=8192"]
    # Given frames say much of what is to come: less guidance keeps to them.
    samples = ["samples.guidance.scale=2", *(["samples.clips=4"] if quick else [])]
    kinema(
        folder,
        *["train", "dit", f"--config={CONFIGS / 'dit.yaml'}", "vae=models/vae", "run.out=models/dit"],
        *[*weights, *masks, *rates, *length, *samples],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--minutes", type=float, default=40.0, help="of training the transformer, two processes")
    parser.add_argument("--events", default=EVENTS, help="what may happen in a clip")
    parser.add_argument("--styles", default="flat", help="how objects are drawn")
    parser.add_argument("--quick", action="store_true", help="a small world, seconds of training")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    made(
        args.out.resolve(), args.demo.resolve(), args.minutes, events=args.events, styles=args.styles, quick=args.quick
    )
    print(f"wrote world and models to {args.out}")


if __name__ == "__main__":
    main()
