"""Model FLOP utilisation of a training step of `video_dit` in bfloat16, on a GPU, or as a smoke run on a CPU.

    python benchmarks/mfu.py [--quick] [--size 1.3B] [--clips 8] [--kept 2]

A step is forward, backward and AdamW. Counted are the operations of forward and backward (three times the forward
pass), not those that checkpointing does again, over the device's dense peak where it is known, else over the measured
rate of a large product. Clips are of several sizes in one pack, fewer without checkpointing, which needs more memory.
Padded are clips of the largest size, on a GPU two a step. On a GPU blocks are compiled, and once not. Without a GPU the
size is S and the clips are small. The last line is one JSON object; mfu and mfu_checkpointed are what counts.
"""

import argparse
import gc
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
    "cuda": ((9, 60, 104), (1, 60, 104), (3, 60, 104), (9, 104, 60), (21, 60, 104)),
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


def measured(
    size: str, grids: list[Grid], device: torch.device, rounds: int, *, checkpointing: bool, compiled: bool
) -> dict[str, float]:
    """Seconds and operations of a step, tokens, and on a GPU GiB at its peak; empty where the memory is too small."""
    torch.manual_seed(0)
    with device:
        dit = VideoDiT(latent_channels=CHANNELS, text_widths=(TEXT_WIDTH,), size=size, checkpointing=checkpointing)
    if compiled:
        dit.compile()
    shapes = [(t, -(-h // 2), -(-w // 2)) for t, h, w in grids]
    found = {"work": 3.0 * forward_flops(dit, shapes, text_tokens=[TEXT_TOKENS]), "tokens": sum(map(math.prod, shapes))}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        found["seconds"] = seconds(training_step(dit.train(), grids, device), device, rounds)
    except torch.OutOfMemoryError:
        return {}
    if device.type == "cuda":
        found["gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--size", help="of `kinema_dit.SIZES`; 1.3B on a GPU, S on a CPU")
    parser.add_argument("--clips", type=int, help="of a pack; 8 on a GPU, 6 on a CPU")
    parser.add_argument("--kept", type=int, default=2, help="clips of the pack without checkpointing")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    size = args.size or ("1.3B" if gpu else "S")
    sizes = GRIDS[device.type]
    grids = [sizes[i % len(sizes)] for i in range(args.clips or (8 if gpu else 6))]
    rounds = 2 if args.quick or not gpu else 4
    rate, source = peak_rate(device)
    print(f"{size} on {device.type}; peak {rate / 1e12:.1f} T operations/s ({source})", flush=True)
    largest = [max(grids, key=math.prod)] * (2 if gpu else len(grids))
    runs = {
        "": (grids[: args.kept], {"checkpointing": False, "compiled": gpu}),
        "_checkpointed": (grids, {"checkpointing": True, "compiled": gpu}),
        "_padded": (largest, {"checkpointing": True, "compiled": gpu}),
        **({"_checkpointed_eager": (grids, {"checkpointing": True, "compiled": False})} if gpu else {}),
    }
    figures: dict[str, float] = {}
    per_clip: dict[str, float] = {}
    for name, (clips, how) in runs.items():
        found = measured(size, clips, device, rounds, **how)
        gc.collect()
        if not found:
            print(f"{name or 'kept'}: out of memory", flush=True)
            continue
        figures[f"mfu{name}"] = found["work"] / found["seconds"] / rate
        per_clip[name] = found["seconds"] / len(clips)
        memory = f", {found['gib']:.1f} GiB" if gpu else ""
        figures |= {f"gib{name}": found["gib"]} if gpu else {}
        print(
            f"mfu{name}: {len(clips)} clips, {found['tokens']} tokens, {found['seconds']:.3f} s a step, "
            f"MFU {figures[f'mfu{name}']:.1%}{memory}",
            flush=True,
        )
    if {"_checkpointed", "_padded"} <= per_clip.keys():
        figures["packed_over_padded"] = per_clip["_padded"] / per_clip["_checkpointed"]
    print(json.dumps({"device": torch.cuda.get_device_name() if gpu else "cpu", **figures}))


if __name__ == "__main__":
    main()
