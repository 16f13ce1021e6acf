"""Frames of up to 2048 x 2048 pixels by the demo's model, with attention in windows: time and memory of each.

    python benchmarks/large.py DEMO [--quick] [--steps 8]

DEMO is a folder that `kinema demo` wrote. Each size is `kinema image` in a process of its own; the files have to have
exactly the size that was asked for. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path

from commands import run
from PIL import Image

#: Width and height in pixels.
SIZES = ((1920, 1080), (1080, 1920), (1280, 1280), (1501, 997), (2048, 2048))
PROMPT = "a large red circle on a white background"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="a folder that `kinema demo` wrote")
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--steps", type=int, default=8, help="of the sampler")
    args = parser.parse_args()
    model = str((args.demo / "models" / "dit").resolve())
    windows = ["--set=dit.attention=window", "--set=dit.window=[4,16,16]"]
    figures: dict[str, float] = {"steps": args.steps}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for width, height in ((301, 233),) if args.quick else SIZES:
            size = [f"--width={width}", f"--height={height}", f"--steps={args.steps}"]
            taken = run(folder, "image", model, PROMPT, *size, *windows, f"--out={width}x{height}")
            (file,) = (folder / f"{width}x{height}").glob("*.png")
            with Image.open(file) as image:
                if image.size != (width, height):
                    raise RuntimeError(f"{width} x {height} pixels were asked for, {image.size} were made")
            print(f"{width} x {height}: {taken.seconds:.0f} s, {taken.bytes / 2**30:.2f} GiB", flush=True)
            figures |= {f"{width}x{height}/seconds": taken.seconds, f"{width}x{height}/GiB": taken.bytes / 2**30}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
