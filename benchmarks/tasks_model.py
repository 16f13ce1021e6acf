"""The demo's model, gone on with on a world in which more happens than in the demo's: events, or styles.

    python benchmarks/tasks_model.py DEMO OUT [--minutes 25]
    python benchmarks/tasks_model.py DEMO OUT --time-stride 2 trainer.precision=bf16-mixed compile=true
    python benchmarks/tasks_model.py DEMO OUT --styles flat,outline,textured,pixelated --time-stride 2 --minutes 85 \\
        trainer.precision=bf16-mixed compile=true

DEMO is a folder that `kinema demo` wrote; OUT will be one like it, with a world, a VAE and a transformer, which
`benchmarks/tasks.py` measures; words KEY=VALUE are settings of `kinema train dit`. A loop and a connection need more
than the demo's clips show: objects that come back, scenes that change, clips of up to 61 frames, and training masks
with both ends given. Styles are detail, and nothing happens beside them: a token of 2 x 2 cells is 48 values of a
network 128 wide, which draws none of them well, so one cell is a token there, and training stays at middle noise. The
VAE goes on first: on colours between the demo's or on the styles, and with a weight on flicker. One of another stride
in time begins anew. DEMO can be a folder that this script made, too.
"""

import argparse
from collections.abc import Sequence
from math import prod
from pathlib import Path

import yaml
from commands import kinema
from safetensors.torch import load_file, save_file

CONFIGS = Path(__file__).parents[1] / "apps" / "src" / "kinema" / "configs" / "demo"
#: Drawn evenly, so what is named twice happens twice as often; where it has no room, nothing happens.
EVENTS = "none,change,change,change,swing,swing,swing,swing,leave"
#: What is edited is of the first size; the others are there so that they are not forgotten.
STYLED_SIZES = {"9x32x32": 1.0, "5x32x32": 0.05, "1x32x32": 0.05} | dict.fromkeys(
    ("17x32x32", "9x48x32", "9x32x48", "5x48x48", "1x48x48", "1x32x48", "1x48x32"), 0.02
)


def made(
    folder: Path,
    demo: Path,
    minutes: float,
    settings: Sequence[str],
    *,
    styles: str,
    stride: int,
    quick: bool,
) -> None:
    """World, VAE and transformer in `folder`; the transformer's training takes more settings."""
    styled = styles != "flat"
    clips = 200 if quick else 20000 if styled else 10000
    events = "none" if styled else EVENTS
    world = ["world", f"--clips={clips}", f"--events={events}", f"--styles={styles}", "--workers=2"]
    kinema(folder, "data", "make-world", *world)
    model = demo / "models"
    gone_on_with = [f"vae.init_from={model / 'vae'}", "optim.lr=2e-3", "optim.muon_lr=1e-2"]
    vae = gone_on_with if stride == 4 else [f"vae.unshuffle=[{stride}, 4, 4]"]
    vae_minutes = 0.1 if quick else 12 if styled else 4
    kinema(
        folder,
        *["train", "vae", f"--config={CONFIGS / 'vae.yaml'}", *vae, "run.out=models/vae"],
        # Its largest jumps are from one latent frame to the next, which is where new frames begin.
        *[f"flicker={4 if styled else 10}", "batch_pixels=262144"],
        *["trainer.devices=2", f"trainer.max_minutes={vae_minutes}", "trainer.max_steps=null"],
    )
    kinema(folder, "encode", "model=models/vae", "out=cache")
    text, dit = (model / "dit" / key / "model.safetensors" for key in ("text.main", "dit"))
    if styled:
        card = yaml.safe_load((model / "dit" / "kinema.yaml").read_text())
        dit = of_one_cell(dit, folder / "one_cell.safetensors", prod(card["components"]["dit"]["settings"]["patch"]))
        sizes = ", ".join(f"{size}: {weight}" for size, weight in STYLED_SIZES.items())
        kind = ["dit.patch=[1, 1, 1]", "keep_share=0.05", f"size_weights={{{sizes}}}"]
        kind += ["diffusion.time_mean=0.2", "diffusion.time_std=1.2", "batch_cells=12288"]
    else:
        kind = ["keep_share=0.6", "keep_weights={ends: 3, head: 3, tail: 3}", "diffusion.time_mean=0.8"]
        # Gradients of few clips are noise; half the stride is more cells a clip. Given frames say much of what is to
        # come: less guidance keeps to them.
        kind += [f"batch_cells={8192 * (4 // stride)}", "samples.guidance.scale=2"]
    length = [f"trainer.max_minutes={0.1 if quick else minutes}", "trainer.max_steps=null"]
    kinema(
        folder,
        *["train", "dit", f"--config={CONFIGS / 'dit.yaml'}", "vae=models/vae", "run.out=models/dit"],
        *[f"dit.weights={dit}", f"text.main.weights={text}", *kind],
        *["optim.lr=2e-3", "optim.muon_lr=7e-3", "optim.decay=1", *length],
        *(["samples.clips=4"] if quick else []),
        *settings,
    )


def of_one_cell(source: Path, target: Path, cells: int) -> Path:
    """Write weights for tokens of one latent cell, of those for tokens of `cells`: first and last layer averaged."""
    weights = load_file(source)
    # A sum of as many cells' values, each with its own noise, is smaller by the root of their number.
    weights["embed.weight"] = cells**0.5 * weights["embed.weight"].unflatten(1, (cells, -1)).mean(1)
    for name in ("project.weight", "project.bias"):
        weights[name] = weights[name].unflatten(0, (cells, -1)).mean(0)
    save_file(weights, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    parser.add_argument("settings", nargs="*", help="more of the transformer's training, as compile=true")
    parser.add_argument("--minutes", type=float, default=25.0, help="of training the transformer, two processes")
    parser.add_argument("--styles", default="flat", help="how objects are drawn; nothing happens in clips of more")
    parser.add_argument("--time-stride", type=int, default=4, choices=(1, 2, 4), help="frames a latent of the VAE")
    parser.add_argument("--quick", action="store_true", help="a small world, seconds of training")
    args = parser.parse_intermixed_args()
    args.out.mkdir(parents=True)
    kind = {"styles": args.styles, "stride": args.time_stride, "quick": args.quick}
    made(args.out, args.demo.resolve(), args.minutes, args.settings, **kind)
    print(f"wrote world and models to {args.out}")


if __name__ == "__main__":
    main()
