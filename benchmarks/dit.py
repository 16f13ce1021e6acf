"""`video_dit` against diffusers' `WanTransformer3DModel`, same weights, same run; and what packing and attention cost.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/dit.py [--quick]

A step is forward and backward, without an optimiser; memory comes in huge pages, as `kinema train` has it. Each part
is a process of its own, so that none meets what another compiled or left in memory. Ratios are ours over theirs
(or packed over the other) in useful tokens a second, of medians. The share is of the rate of plain matrix products of
the transformer's width. Two ranks that draw different buckets wait for each other: a step takes as long as the dearer
one. Buckets hold as many cells as a pack, or as many clips by duration as Open-Sora 2 trains with. The last line is one
JSON object; fp32_ratio, bf16_ratio, packed_over_padded and packed_over_bucketed are what the project tracks.
"""

import argparse
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from kinema_core import Conditioning, Ragged, TextFeatures
from kinema_data.worlds import TRAIN_SIZES
from kinema_dit import (
    CausalBlocks,
    VideoDiT,
    Windows,
    forward_flops,
    load_wan,
    neighbour_attention,
    neighbourhoods,
    pack,
    packed_attention,
)

CHANNELS, TEXT_WIDTH, TEXT_TOKENS = 12, 64, 32
Grid = tuple[int, int, int]
#: Batch sizes by frames of latents (1, 5, 9 and 17 frames) as Open-Sora 2 trains with at 256 px, in its
#: configs/diffusion/train/stage1.py.
OPEN_SORA = {1: 45, 2: 12, 3: 12, 5: 12}


def seconds_of(calls: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The median time of each call, taken after one round to warm up, in an order drawn anew each round.

    In a fixed order a call always finds the memory as the same other one left it, which costs several per cent.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    draw = random.Random(0)
    for number in range(rounds + 1):
        for name in draw.sample(list(calls), len(calls)):
            began = time.perf_counter()
            calls[name]()
            if number:
                taken[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in taken.items()}


def matmul_rate(width: int, tokens: int, dtype: torch.dtype) -> float:
    """Operations a second of a plain product (tokens, width) x (width, 4 width)."""
    a, b = torch.rand(tokens, width).to(dtype), torch.rand(width, 4 * width).to(dtype)
    return 2 * tokens * width * 4 * width / seconds_of({"product": lambda: a @ b}, 10)["product"]


def packed_step(dit: VideoDiT, grids: list[Grid], dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """Forward and backward of clips of these grids in one pack."""
    x = Ragged.from_clips([torch.randn(CHANNELS, *grid) for grid in grids])
    noise = x.per_cell(torch.rand(len(grids)))
    text = TextFeatures(
        torch.randn(len(grids), TEXT_TOKENS, TEXT_WIDTH), torch.ones(len(grids), TEXT_TOKENS, dtype=torch.bool)
    )

    def step() -> None:
        dit.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = dit(x, noise, Conditioning((text,)))
        out.float().square().mean().backward()

    return step


def against_diffusers(
    width: int, depth: int, clips: int, grid: Grid, rounds: int, dtype: torch.dtype, *, compiled: bool = False
) -> dict[str, float]:
    """Tokens a second of both (ours compiled or not), their ratio, and our share of the rate of plain products."""
    torch.manual_seed(0)
    heads = width // 64
    theirs = WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=64,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT_WIDTH,
        ffn_dim=4 * width,
        num_layers=depth,
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_wan(folder).train()
    if compiled:
        ours.compile(attention=True)  # one size repeats
    x, t = torch.randn(clips, CHANNELS, *grid), 1000 * torch.rand(clips)
    text = torch.randn(clips, TEXT_TOKENS, TEXT_WIDTH)

    def their_step() -> None:
        theirs.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = theirs(x, t, text).sample
        out.float().square().mean().backward()

    taken = seconds_of({"ours": packed_step(ours, [grid] * clips, dtype), "theirs": their_step}, rounds)
    shape = (grid[0], grid[1] // 2, grid[2] // 2)
    tokens = clips * shape[0] * shape[1] * shape[2]
    work = 3 * forward_flops(ours, [shape] * clips, text_tokens=[TEXT_TOKENS])
    return {
        "ours": tokens / taken["ours"],
        "theirs": tokens / taken["theirs"],
        "ratio": taken["theirs"] / taken["ours"],
        "share": work / taken["ours"] / matmul_rate(width, tokens, dtype),
    }


def mixed_sizes(rounds: int, clips: int) -> dict[str, float]:
    """The demo's mix of sizes: packed over padded to the largest, over buckets, and over buckets on two ranks."""
    torch.manual_seed(0)
    dit = VideoDiT(
        latent_channels=CHANNELS,
        text_widths=(TEXT_WIDTH,),
        pooled_widths=(None,),
        width=128,
        depth=6,
        num_heads=4,
        patch=(1, 1, 1),
        activation="gelu",
    )
    shares = {(1 + (f - 1) // 4, h // 4, w // 4): share for (f, h, w), share in TRAIN_SIZES.items()}
    cells = {grid: grid[0] * grid[1] * grid[2] for grid in shares}
    counts = {grid: max(1, round(share * clips)) for grid, share in shares.items()}
    mix = [grid for grid, count in counts.items() for _ in range(count)]
    useful = sum(cells[grid] for grid in mix)
    largest = tuple(max(grid[axis] for grid in shares) for axis in range(3))
    # Buckets hold as many cells as the mixed pack, of one size; or clips by frames as in a published table, so many
    # that 9 frames are as many cells as the mixed pack, at every frame size.
    equal = {grid: [grid] * max(1, round(useful / cells[grid])) for grid in shares}
    published = {}
    for frames, height, width in shares:
        number = useful / (3 * height * width) * OPEN_SORA[frames] / OPEN_SORA[3]
        published[frames, height, width] = [(frames, height, width)] * max(1, round(number))
    kinds = {"bucketed": equal, "published": published}
    # Every ratio is of the packed step's time: it is taken oftener than the others.
    step = packed_step(dit, mix)
    calls = {f"packed {i}": step for i in range(4)} | {"padded": packed_step(dit, [largest] * len(mix))}
    for name, buckets in kinds.items():
        calls |= {f"{name} {grid}": packed_step(dit, members) for grid, members in buckets.items()}
    taken = seconds_of(calls, rounds)
    rate = useful / median(seconds for name, seconds in taken.items() if name.startswith("packed"))

    def bucketed(name: str) -> tuple[float, float]:
        """Useful cells a second of one process, and of two that draw different buckets and wait for each other."""
        buckets = kinds[name]
        # How often a bucket is drawn, so that every clip is seen as often.
        weights = {grid: shares[grid] / len(members) for grid, members in buckets.items()}
        drawn = {grid: weight / sum(weights.values()) for grid, weight in weights.items()}
        size = {grid: len(members) * cells[grid] for grid, members in buckets.items()}
        seconds = {grid: taken[f"{name} {grid}"] for grid in buckets}
        alone = sum(drawn[g] * size[g] for g in drawn) / sum(drawn[g] * seconds[g] for g in drawn)
        pairs = list(itertools.permutations(drawn, 2))
        slower = sum(drawn[a] * drawn[b] * max(seconds[a], seconds[b]) for a, b in pairs)
        return alone, sum(drawn[a] * drawn[b] * (size[a] + size[b]) for a, b in pairs) / slower

    figures = {"packed_over_padded": rate / (useful / taken["padded"])}
    for name in kinds:
        alone, two_ranks = bucketed(name)
        figures |= {f"packed_over_{name}": rate / alone, f"packed_over_{name}_two_ranks": 2 * rate / two_ranks}
    return figures


@torch.no_grad()
def durations(frames: tuple[int, ...], rounds: int) -> dict[str, float]:
    """How the time of attention alone grows with duration: the slope of its logarithm over that of the frames."""
    rules = {"full": None, "window": Windows((4, 8, 8)), "block_causal": CausalBlocks(1, 4)}
    taken: dict[str, list[float]] = {name: [] for name in rules}
    for count in frames:
        packing = pack(((count, 8, 8),), (1, 1, 1), torch.device("cpu"))
        q, k, v = torch.randn(3, count * 64, 4, 32)
        calls: dict[str, Callable[[], object]] = {}
        for name, rule in rules.items():
            near = None if rule is None else neighbourhoods(packing, rule)
            calls[name] = (
                (lambda q=q, k=k, v=v, p=packing: packed_attention(q, k, v, p))
                if near is None
                else (lambda q=q, k=k, v=v, n=near: neighbour_attention(q, k, v, n))
            )
        for name, seconds in seconds_of(calls, rounds).items():
            taken[name].append(seconds)
    steps = torch.tensor(frames).double().log()
    slopes = {}
    for name, values in taken.items():
        logs = torch.tensor(values).double().log()
        slopes[name] = float(
            ((steps - steps.mean()) * (logs - logs.mean())).sum() / (steps - steps.mean()).square().sum()
        )
        print(f"{name}: " + ", ".join(f"{n} frames {1e3 * s:.1f} ms" for n, s in zip(frames, values, strict=True)))
    return {f"slope/{name}": slope for name, slope in slopes.items()}


def in_new_process(part: Callable[..., dict[str, float]], *args: Any, **kwargs: Any) -> dict[str, float]:
    """What a part of the benchmark returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(part, *args, **kwargs).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    # Steps vary by several per cent on a shared machine, with its neighbours' use of memory.
    rounds, step_rounds = (2, 2) if args.quick else (21, 25)
    width, depth = (256, 2) if args.quick else (512, 4)
    for dtype, compiled in itertools.product(
        (torch.float32, torch.bfloat16), (False,) if args.quick else (False, True)
    ):
        # A CPU that does not compute in bfloat16 takes tens of times as long as in float32.
        slow = matmul_rate(width, 256, dtype) < 0.5 * matmul_rate(width, 256, torch.float32)
        clips, turns = (1, 1) if slow else (8, step_rounds)
        name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype] + ("_compiled" if compiled else "")
        found = in_new_process(against_diffusers, width, depth, clips, (3, 16, 16), turns, dtype, compiled=compiled)
        figures[f"{name}_ratio"], figures[f"{name}_share"] = found["ratio"], found["share"]
        print(
            f"{name}, width {width}: ours {found['ours']:.0f}, theirs {found['theirs']:.0f} tokens/s, ratio "
            f"{found['ratio']:.2f}; {found['share']:.0%} of the rate of plain products",
            flush=True,
        )
    figures |= in_new_process(mixed_sizes, rounds, 8 if args.quick else 48)
    figures |= in_new_process(durations, (8, 16, 32) if args.quick else (8, 16, 32, 64, 128), rounds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
