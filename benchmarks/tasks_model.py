"""Models of what the demo's clips do not show, begun with the demo's: what happens between clips, or styles.

    python benchmarks/tasks_model.py DEMO OUT trainer.precision=bf16-mixed compile=true
    python benchmarks/tasks_model.py DEMO OUT --styles flat,outline,textured,pixelated trainer.precision=bf16-mixed \\
        compile=true
    python benchmarks/tasks_model.py OUT FURTHER --more --styles flat,outline,textured,pixelated,pixelated compile=true

DEMO is a folder that `kinema demo` wrote; OUT will be one like it, with a world, a VAE and a transformer, which
`benchmarks/tasks.py` measures; words KEY=VALUE are settings of `kinema train dit`. With --more DEMO is what this script
wrote before: its VAE stays, and its transformer is gone on with, on new clips. A loop and a connection need more than
the demo's clips show: objects that come back, scenes that change, clips of up to 61 frames, and training masks with
both ends given. Motions that bend are the hardest to go on with, and a seventh of the demo's. Styles are detail, and
nothing happens beside them.

Both have a VAE of two frames a latent, which jumps less from one latent to the next, and a transformer that is trained
twice: with the demo's tokens of 2 x 2 latent cells, which are cheap, then with one cell a token. Four cells are 48
values, each with its noise, of which a network 128 wide draws none well.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from commands import kinema
from safetensors.torch import load_file, save_file

CONFIGS = Path(__file__).parents[1] / "apps" / "src" / "kinema" / "configs" / "demo"
#: Latent cells in a token of the demo's transformer, and the share of the time that is trained with them.
CELLS, COARSE = 4, 0.3
#: A model folder's weights that are gone on with.
PARTS = ("text.main/model.safetensors", "dit/model.safetensors")
#: Drawn evenly, so what is named twice happens twice as often; where it has no room, nothing happens.
EVENTS = "none,none,none,none,change,change,change,swing,swing,swing,leave"
#: Of other motions than these every fourth clip is trained on.
BENT = ("bounce", "orbit")
OTHER_SIZES = ("9x32x32", "5x32x32", "1x32x32", "9x48x32", "9x32x48", "5x48x48", "1x48x48", "1x32x48", "1x48x32")
#: What is gone on with is of the first size, and connections are of the third; the others are not to be forgotten.
EVENT_SIZES = {"17x32x32": 1.0, "33x32x32": 0.3, "61x32x32": 0.25, **dict.fromkeys(OTHER_SIZES, 0.1)}
#: What is edited is of 9 frames.
STYLED_SIZES = dict.fromkeys((*OTHER_SIZES, "17x32x32"), 0.02) | {"9x32x32": 1.0, "5x32x32": 0.05, "1x32x32": 0.05}


def made(
    folder: Path, demo: Path, minutes: float, settings: Sequence[str], *, styles: str, more: bool, quick: bool
) -> None:
    """World, VAE and transformer in `folder`; the transformer's training takes more settings."""
    styled = styles != "flat"
    clips = 6000 if quick else 40000 if styled else 24000
    world = ["world", f"--clips={clips}", f"--events={'none' if styled else EVENTS}", f"--styles={styles}"]
    kinema(folder, "data", "make-world", *world, f"--seed={int(more)}", "--workers=2")
    if not styled:
        thin_out(folder / "world" / "manifest.jsonl")
    vae = demo / "models" / "vae" if more else train_vae(folder, styled=styled, quick=quick)
    kinema(folder, "encode", f"model={vae}", "out=cache")
    weights = STYLED_SIZES if styled else EVENT_SIZES
    kind = [f"size_weights={{{', '.join(f'{size}: {weight}' for size, weight in weights.items())}}}"]
    if styled:
        # Detail comes last: after the first training true blocks, noised to no more than 0.25, became stripes.
        kind += ["keep_share=0.05", f"diffusion.time_mean={-0.4 if more else 0.2}", "diffusion.time_std=1.2"]
    else:
        # Given frames say much of what is to come: less guidance keeps to them.
        kind += ["keep_share=0.7", "keep_weights={ends: 3, head: 4, tail: 3}", "samples.guidance.scale=2"]
        kind += ["diffusion.time_mean=0.8"]
    train = ["train", "dit", f"--config={CONFIGS / 'dit.yaml'}", f"vae={vae}", *kind]
    train += ["optim.lr=2e-3", "optim.muon_lr=7e-3", "trainer.max_steps=null", *(["samples.clips=4"] if quick else [])]

    def trained(name: str, share: float, text: Path, dit: Path, *words: str) -> None:
        weights = [f"text.main.weights={text}", f"dit.weights={dit}"]
        length = f"trainer.max_minutes={0.1 if quick else share * minutes}"
        kinema(folder, *train, *weights, length, f"run.out=models/{name}", *words, *settings)

    text, dit = (demo / "models" / "dit" / part for part in PARTS)
    share = 1.0
    if not more:
        share = 1 - COARSE
        trained("coarse", COARSE, text, dit, "batch_cells=24576", "optim.decay=0")
        text, dit = (folder / "models" / "coarse" / part for part in PARTS)
        dit = of_one_cell(dit, folder / "one_cell.safetensors")
    trained("dit", share, text, dit, "batch_cells=12288", "optim.decay=1", "dit.patch=[1, 1, 1]")


def train_vae(folder: Path, *, styled: bool, quick: bool) -> Path:
    """Train the VAE of `folder` in its world; its model folder."""
    minutes = 0.1 if quick else 14 if styled else 4
    target = folder / "models" / "vae"
    kinema(
        folder,
        *["train", "vae", f"--config={CONFIGS / 'vae.yaml'}", "vae.unshuffle=[2, 4, 4]", f"run.out={target}"],
        # Its largest jumps are from one latent frame to the next, which is where new frames begin.
        # Detail takes many steps; with 262144 pixels in each the same time keeps 65 % of styles in place of 87.
        *[f"flicker={4 if styled else 10}", f"batch_pixels={73728 if styled else 262144}"],
        *["trainer.devices=2", f"trainer.max_minutes={minutes}", "trainer.max_steps=null"],
    )
    return target


def thin_out(manifest: Path) -> None:
    """Leave all clips whose motion bends in a world's manifest, and every fourth of the others."""
    lines = manifest.read_text().splitlines(keepends=True)
    kept = (line for i, line in enumerate(lines) if i % 4 == 0 or json.loads(line)["meta"]["motion"] in BENT)
    manifest.write_text("".join(kept))


def of_one_cell(source: Path, target: Path) -> Path:
    """Write weights for tokens of one latent cell, of those for tokens of four: first and last layer averaged."""
    weights = load_file(source)
    # A sum of as many cells' values, each with its own noise, is smaller by the root of their number.
    weights["embed.weight"] = CELLS**0.5 * weights["embed.weight"].unflatten(1, (CELLS, -1)).mean(1)
    for name in ("project.weight", "project.bias"):
        weights[name] = weights[name].unflatten(0, (CELLS, -1)).mean(0)
    save_file(weights, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo`, with --more this script wrote")
    parser.add_argument("out", type=Path, help="folder to write; it must not exist")
    parser.add_argument("settings", nargs="*", help="more of the transformer's training, as compile=true")
    parser.add_argument("--minutes", type=float, default=95.0, help="of training the transformer, two processes")
    parser.add_argument(
        "--styles",
        default="flat",
        help="how objects are drawn; one that is named twice is drawn twice as often; "
        "nothing happens in clips of more than flat objects",
    )
    parser.add_argument("--more", action="store_true", help="go on with the transformer of DEMO, on new clips")
    parser.add_argument("--quick", action="store_true", help="a small world, seconds of training")
    args = parser.parse_intermixed_args()
    args.out.mkdir(parents=True)
    made(
        args.out.resolve(),
        args.demo.resolve(),
        args.minutes,
        args.settings,
        styles=args.styles,
        more=args.more,
        quick=args.quick,
    )
    print(f"wrote world and models to {args.out}")


if __name__ == "__main__":
    main()
