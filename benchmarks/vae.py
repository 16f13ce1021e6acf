"""`causal3d` in Wan's layout against diffusers' `AutoencoderKLWan`: same widths and weights, same run.

    python benchmarks/vae.py [--quick | --large]

Speed is frames a second of encoding and decoding, both networks in turn in each round, as a ratio of medians. Memory is
the peak of the process over what it holds once the model is loaded, each in a process of its own. The last line is one
JSON object; its encode_ratio, decode_ratio (ours over theirs, at 128 px) and memory_ratio are what the project tracks.

`--large` has the network of Wan 2.1 code a clip of 1080p and an image of 2048 x 2048 tile by tile, and says how much
memory the process took in all: most of an hour on two cores.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from diffusers import AutoencoderKLWan
from kinema_vae import Causal3D, TiledVAE, load_wan
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

WIDTH = 32
#: Frames, rows and columns of `--large`, and its tiles: they fade over 40 pixels and see as many beyond.
LARGE, TILE, OVERLAP = ((5, 1080, 1920), (1, 2048, 2048)), 384, 0.1
#: Frames and pixels a side.
FULL = ((17, 64), (33, 64), (17, 128), (33, 128), (17, 256))
QUICK = ((17, 64), (9, 128))


class Theirs(nn.Module):
    """diffusers' network with the two calls that are compared."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = AutoencoderKLWan.from_pretrained(folder).eval()

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        return self.model.encode(video).latent_dist.mean

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.model.decode(z).sample


def network(who: str, folder: str) -> nn.Module:
    """ "ours" or "theirs" with the folder's weights."""
    return load_wan(folder) if who == "ours" else Theirs(folder)


def peak_memory() -> float:
    """The most memory that this process has held since `fresh_peak`, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def fresh_peak() -> float:
    """Forget the peak so far (Linux); what is held now, in MB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def video_of(frames: int, size: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.inference_mode()
def speeds(folder: str, frames: int, size: int, rounds: int, dtype: torch.dtype) -> dict[str, float]:
    """Frames a second by who and what, medians of `rounds` taken in turn."""
    models = {who: network(who, folder).to(dtype) for who in ("ours", "theirs")}
    video = video_of(frames, size).to(dtype)
    latents = {who: model.encode(video) for who, model in models.items()}
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for who, model in models.items():
            for what, call, x in (("encode", model.encode, video), ("decode", model.decode, latents[who])):
                began = time.perf_counter()
                call(x)
                seconds.setdefault(f"{who} {what}", []).append(time.perf_counter() - began)
    return {key: frames / median(values) for key, values in seconds.items()}


def convolution_rate(size: int) -> float:
    """Billions of multiplications a second in a plain 3 x 3 x 3 convolution: the machine's own rate."""
    x, w = torch.rand(1, WIDTH, 6, size, size), torch.rand(WIDTH, WIDTH, 3, 3, 3)
    with torch.inference_mode():
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            y = nn.functional.conv3d(x, w, padding=(0, 1, 1))
            seconds.append(time.perf_counter() - began)
    return y.numel() * WIDTH * 27 / median(seconds) / 1e9


@torch.inference_mode()
def work(folder: str, frames: int, size: int) -> dict[str, float]:
    """Billions of multiplications of encoding and of decoding a frame."""
    model = load_wan(folder).to("meta")
    video, found = video_of(frames, size).to("meta"), {}
    with FlopCounterMode(display=False) as counter:
        latents = model.encode(video)
    found["encode"] = counter.get_total_flops() / 2e9 / frames
    with FlopCounterMode(display=False) as counter:
        model.decode(latents)
    return {**found, "decode": counter.get_total_flops() / 2e9 / frames}


@torch.inference_mode()
def peak(who: str, folder: str, frames: int, size: int) -> None:
    """Print by how many MB encoding and decoding raise this process's peak."""
    model, video = network(who, folder), video_of(frames, size)
    model.decode(model.encode(video[:, :, :1, :16, :16]))  # what libraries load at first use
    before = fresh_peak()
    model.decode(model.encode(video))
    print(peak_memory() - before)


def memory(folder: str, frames: int, size: int) -> dict[str, float]:
    """Megabytes by who, each in its own process."""
    call = [sys.executable, __file__, "--peak-frames", str(frames), "--peak-size", str(size), "--folder", folder]
    return {
        who: float(subprocess.run([*call, "--who", who], check=True, capture_output=True, text=True).stdout.split()[-1])
        for who in ("ours", "theirs")
    }


@torch.inference_mode()
def stream(folder: str, frames: int, size: int) -> None:
    """Print the peak in MB above the loaded model of coding a video in pieces, and the growth of the time a piece."""
    model, generator = load_wan(folder), torch.Generator().manual_seed(0)

    def pieces() -> Iterator[torch.Tensor]:
        yield torch.rand(1, 3, 1, size, size, generator=generator)
        for _ in range((frames - 1) // 4):
            yield torch.rand(1, 3, 4, size, size, generator=generator)

    # Time of the processor: that of a shared machine's clock varies by more than what is asked.
    before, seconds, began = fresh_peak(), [], time.process_time()
    for _ in model.decode_stream(model.encode_stream(pieces())):
        seconds.append(time.process_time() - began)
        began = time.process_time()
    quarter = len(seconds) // 4
    print(
        peak_memory() - before,
        median(seconds[-quarter:]) / median(seconds[2 : 2 + quarter]),
    )


def durations(folder: str, short: int, long: int, size: int) -> tuple[float, float]:
    """Peak memory of a long over that of a short video; the time of a late piece of the long over an early one's."""
    found = []
    for frames in (short, long):
        call = [sys.executable, __file__, "--stream", "--peak-frames", str(frames), "--peak-size", str(size)]
        out = subprocess.run([*call, "--folder", folder], check=True, capture_output=True, text=True).stdout
        found.append([float(x) for x in out.split()[-2:]])
    return found[1][0] / found[0][0], found[1][1]


@torch.inference_mode()
def large(frames: int, height: int, width: int) -> None:
    """Print the minutes and the process's peak in GiB of coding a video tile by tile."""
    torch.manual_seed(0)
    model, began = TiledVAE(Causal3D(preset="wan21").eval(), TILE, OVERLAP), time.perf_counter()
    video = torch.rand(1, 3, frames, height, width) * 2 - 1
    decoded = model.decode(model.encode(video), (height, width))
    assert decoded.shape == video.shape and decoded.isfinite().all()
    print((time.perf_counter() - began) / 60, peak_memory() / 1024)


def measure_large() -> dict[str, float]:
    """Minutes and GiB of each of `LARGE`, in a process of its own."""
    figures: dict[str, float] = {}
    for shape in LARGE:
        call = [sys.executable, __file__, "--shape", *map(str, shape)]
        out = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        minutes, peak = (float(x) for x in out.split()[-2:])
        name = "x".join(map(str, shape))
        print(f"{name}: {minutes:.1f} min, {peak:.2f} GiB", flush=True)
        figures.update({f"large/{name}/minutes": minutes, f"large/{name}/gib": peak})
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--large", action="store_true", help="1080p, by tiles")
    parser.add_argument("--shape", type=int, nargs=3, help=argparse.SUPPRESS)
    for name in ("--who", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--peak-frames", "--peak-size"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.shape:
        large(*args.shape)
        return
    if args.large:
        print(json.dumps(measure_large()))
        return
    if args.stream:
        stream(args.folder, args.peak_frames, args.peak_size)
        return
    if args.who:
        peak(args.who, args.folder, args.peak_frames, args.peak_size)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoencoderKLWan(base_dim=WIDTH).save_pretrained(folder)
        print(json.dumps(measure(folder, quick=args.quick)))


def measure(folder: str, *, quick: bool) -> dict[str, float]:
    """All figures; prints each as it is known."""
    figures: dict[str, float] = {}
    plain = convolution_rate(128)
    print(f"plain convolution, {WIDTH} channels, 128 px: {plain:.0f} G multiplications/s", flush=True)
    # A CPU that does not compute in bfloat16 takes 60 times as long as in float32.
    jobs = {torch.float32: QUICK} if quick else {torch.float32: FULL, torch.bfloat16: QUICK[:1]}
    for dtype, sizes in jobs.items():
        short, rounds = str(dtype).removeprefix("torch."), 3 if quick or dtype == torch.bfloat16 else 5
        for frames, size in sizes:
            found, each = speeds(folder, frames, size, rounds, dtype), work(folder, frames, size)
            for what in ("encode", "decode"):
                ratio = found[f"ours {what}"] / found[f"theirs {what}"]
                print(
                    f"{short} {frames}x{size}x{size} {what}: ours {found[f'ours {what}']:.1f}, "
                    f"theirs {found[f'theirs {what}']:.1f} frames/s, ratio {ratio:.2f}; ours at "
                    f"{found[f'ours {what}'] * each[what] / plain:.0%} of the rate of the plain convolution",
                    flush=True,
                )
                figures[f"{short}/{frames}x{size}/{what}"] = ratio
                if dtype == torch.float32 and size == 128:
                    figures[f"{what}_ratio"] = ratio
    for frames, size in ((5, 256),) if quick else ((9, 256), (9, 384)):
        found = memory(folder, frames, size)
        figures[f"memory/{frames}x{size}"] = figures["memory_ratio"] = found["ours"] / found["theirs"]
        print(f"{frames}x{size}x{size} peak: ours {found['ours']:.0f}, theirs {found['theirs']:.0f} MB", flush=True)
    long = 385 if quick else 1441
    figures["duration_memory_ratio"], figures["duration_time_ratio"] = durations(folder, 97, long, 32)
    print(f"{long} frames over 97: memory {figures['duration_memory_ratio']:.2f}", flush=True)
    print(f"a late piece over an early one: time {figures['duration_time_ratio']:.2f}", flush=True)
    return figures


if __name__ == "__main__":
    main()
