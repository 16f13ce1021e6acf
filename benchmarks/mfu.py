"""Model FLOP utilisation of a training step of `video_dit` in bfloat16, on a GPU, or as a smoke run on a CPU.

    python benchmarks/mfu.py [--quick] [--size 1.3B] [--clips 8]

A step is forward, backward and AdamW. Counted are the operations of forward and backward (three times the forward
pass), not those that checkpointing does again, over the device's dense peak where it is known, else over the measured
rate of a large product. Clips are of several sizes in one pack, and the same padded to the largest. Without a GPU the
size is S and the clips are small. The last line is one JSON object; mfu and mfu_checkpointed are what counts.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from statistics import median

import torch
from kinema_core import Conditioning, Ragged, TextFeatures
from kinema_dit import VideoDiT, forward_flops

Grid = tuple[int, int, int]
CHANNELS, TEXT_WIDTH, TEXT_TOKENS = 16, 4096, 64
#: Dense peaks in bfloat16, operations a second (the makers' data sheets).
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
#: Latents of 480p clips of 1, 9, 33 and 81 frames, at a stride of 4 x 8 x 8; and what a CPU can do.
GRIDS: dict[str, tuple[Grid, ...]] = {
    "cuda": ((1, 60, 104), (3, 60, 104), (9, 60, 104), (9, 104, 60), (21, 60, 104)),
    "cpu": ((1, 8, 8), (3, 8, 8), (3, 8, 12)),
}


def peak_rate(device: torch.device, size: int = 8192) -> tuple[float, str]:
    """Operations a second and where they are from."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, rate in PEAKS.items():
            if part in name:
                return rate, f"{name}, data sheet"
    size = size if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / seconds(lambda: a @ a, device, 10), "measured product"


def seconds(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median time of a call after one to warm up."""
    taken = []
    for _ in range(rounds + 1):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_step(dit: VideoDiT, grids: list[Grid], device: torch.device) -> Callable[[], None]:
    """Forward, backward and an AdamW step over clips of these grids in one pack."""
    x = Ragged.from_clips([torch.randn(CHANNELS, *grid) for grid in grids]).to(device)
    noise = x.per_cell(torch.rand(len(grids), device=device))
    tokens = torch.randn(len(grids), TEXT_TOKENS, TEXT_WIDTH, device=device)
    cond = Conditioning((TextFeatures(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)),))
    optimiser = torch.optim.AdamW(dit.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            out = dit(x, noise, cond)
        out.float().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--size", help="of `kinema_dit.SIZES`; 1.3B on a GPU, S on a CPU")
    parser.add_argument("--clips", type=int, help="of a pack; 8 on a GPU, 6 on a CPU")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = args.size or ("1.3B" if device.type == "cuda" else "S")
    sizes = GRIDS[device.type]
    grids = [sizes[i % len(sizes)] for i in range(args.clips or (8 if device.type == "cuda" else 6))]
    rounds = 2 if args.quick or device.type == "cpu" else 5
    rate, source = peak_rate(device)
    print(f"{size}, {len(grids)} clips on {device.type}; peak {rate / 1e12:.1f} T operations/s ({source})", flush=True)
    figures: dict[str, float] = {}
    for checkpointing in (False, True):
        torch.manual_seed(0)
        with device:
            dit = VideoDiT(
                latent_channels=CHANNELS, text_widths=(TEXT_WIDTH,), size=size, checkpointing=checkpointing
            ).train()
        name = "_checkpointed" if checkpointing else ""
        shapes = [(t, -(-h // 2), -(-w // 2)) for t, h, w in grids]
        work = 3 * forward_flops(dit, shapes, text_tokens=[TEXT_TOKENS])
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            taken = seconds(training_step(dit, grids, device), device, rounds)
        except torch.OutOfMemoryError:
            print(f"checkpointing {checkpointing}: out of memory", flush=True)
            continue
        figures[f"mfu{name}"] = work / taken / rate
        if device.type == "cuda":
            figures[f"gib{name}"] = torch.cuda.max_memory_allocated(device) / 2**30
        if checkpointing:
            largest = max(grids, key=math.prod)
            try:
                padded = seconds(training_step(dit, [largest] * len(grids), device), device, rounds)
                figures["packed_over_padded"] = padded / taken
            except torch.OutOfMemoryError:
                print("padded to the largest clip: out of memory", flush=True)
        print(f"checkpointing {checkpointing}: {taken:.3f} s a step, MFU {figures[f'mfu{name}']:.1%}", flush=True)
        del dit
    print(json.dumps({"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", **figures}))


if __name__ == "__main__":
    main()
