"""The transformer's contract, at several patches, and what the contract does not say."""

import copy

import pytest
import torch
from kinema_core import Conditioning, Ragged, TextFeatures, dits, seeded_normal
from kinema_core.testing import DiTContract, largest_difference, randomise

from kinema_dit import VideoDiT
from kinema_dit.packing import pack


class TestVideoDiT(DiTContract):
    def make(self) -> VideoDiT:
        torch.manual_seed(0)
        return VideoDiT(
            latent_channels=4, text_widths=(8,), pooled_widths=(6,), width=32, depth=2, num_heads=4, rope_theta=100.0
        )


class TestLongPatches(DiTContract):
    """Patches over time that no grid is a multiple of, two text streams, one without pooled features."""

    text_widths = (8, 5)
    pooled_widths = (None, 6)

    def make(self) -> VideoDiT:
        torch.manual_seed(1)
        return VideoDiT(
            latent_channels=4,
            text_widths=(8, 5),
            pooled_widths=(None, 6),
            width=32,
            depth=2,
            num_heads=2,
            patch=(2, 2, 3),
            cross_every=2,
        )


@pytest.mark.slow
@pytest.mark.parametrize("text_attention", ["cross", "joint"])
def test_compiled_blocks_give_the_same(text_attention: str) -> None:
    torch.manual_seed(0)
    shape = {"width": 32, "depth": 2, "num_heads": 2, "text_attention": text_attention}
    dit = VideoDiT(latent_channels=4, text_widths=(8,), pooled_widths=(6,), **shape)
    randomise(dit)
    contract = DiTContract()
    x, noise, cond = contract.inputs()
    right = dit(x, noise, cond)
    right.square().sum().backward()
    gradients = [p.grad.clone() for p in dit.parameters()]
    dit.zero_grad()
    dit.compile()
    found = dit(x, noise, cond)
    found.square().sum().backward()
    assert largest_difference(found, right) < 1e-5
    for p, gradient in zip(dit.parameters(), gradients, strict=True):
        assert largest_difference(p.grad, gradient) < 1e-4 * (1 + gradient.abs().max())


@pytest.mark.parametrize("mode", ["full", "window", "block_causal", "joint"])
def test_compiled_blocks_are_compiled_for_two_mixes_of_sizes_and_then_for_all(mode: str) -> None:
    torch._dynamo.reset()
    attention = {"text_attention": "joint"} if mode == "joint" else {"attention": mode}
    dit = VideoDiT(latent_channels=4, text_widths=(8,), width=16, depth=2, num_heads=2, patch=(1, 2, 2), **attention)
    dit.compile(backend="eager")  # what is traced is the same for every backend
    mixes = [
        [(2, 4, 4)] * 2,
        [(2, 4, 4), (1, 3, 3), (3, 4, 6)],
        [(5, 4, 4), (2, 2, 2), (1, 6, 6), (1, 6, 6)],
        [(1, 2, 2)] * 9,
    ]
    graphs = []
    for seed, grids in enumerate(mixes):
        x = Ragged.from_clips([seeded_normal((4, *grid), seed, i) for i, grid in enumerate(grids)])
        words = seeded_normal((len(grids), 5 + seed, 8), "text")
        text = TextFeatures(words, torch.ones(words.shape[:2], dtype=torch.bool))
        dit(x, x.per_cell(torch.linspace(0, 1, len(grids))), Conditioning((text,))).sum().backward()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] < graphs[1] == graphs[2] == graphs[3]


@pytest.mark.parametrize("text_attention", ["cross", "joint"])
def test_compiled_for_few_sizes_gives_the_same(text_attention: str) -> None:
    """With attention in the graphs, which take clips of one size in another way than a mix."""
    shape = {"width": 32, "depth": 2, "num_heads": 2, "patch": (1, 1, 1), "text_attention": text_attention}
    torch.manual_seed(0)
    dit = VideoDiT(latent_channels=4, text_widths=(8,), pooled_widths=(6,), **shape)
    randomise(dit)
    compiled = copy.deepcopy(dit)
    compiled.compile(backend="eager", attention=True)
    for grids in (((2, 3, 4),) * 3, DiTContract.grids[:3]):
        x = Ragged.from_clips([seeded_normal((4, *grid), i) for i, grid in enumerate(grids)])
        noise, cond = x.per_cell(torch.tensor([0.2, 0.9, 0.5])), DiTContract().conditioning(3)
        results = []
        for model in (dit, compiled):
            model.zero_grad()
            out = model(x, noise, cond)
            out.square().sum().backward()
            results.append((out, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
        assert largest_difference(results[0][0], results[1][0]) < 1e-5
        assert largest_difference(results[0][1], results[1][1]) < 1e-4 * results[0][1].abs().max()


def test_registered() -> None:
    assert dits.get("video_dit") is VideoDiT
    assert dits.origin("video_dit")[0] == "kinema-dit"


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 3, 2)])
def test_unpatchify_inverts_patchify(patch: tuple[int, int, int]) -> None:
    grids = ((3, 4, 4), (1, 3, 5), (2, 5, 3), (3, 4, 4))
    x = Ragged.from_clips([seeded_normal((3, *grid), i) for i, grid in enumerate(grids)])
    packing = pack(grids, patch, torch.device("cpu"))
    tokens = packing.patchify(x.values)
    assert torch.equal(packing.unpatchify(tokens), x.values)
    assert sum(count * length for count, length in packing.groups) == len(tokens)


def test_a_patch_holds_neighbouring_cells() -> None:
    z = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    tokens = pack(((2, 4, 4),), (1, 2, 2), torch.device("cpu")).patchify(Ragged.from_clips([z]).values)
    assert tokens[0].tolist() == [0, 1, 4, 5]
    assert tokens[-1].tolist() == [26, 27, 30, 31]


def test_extra_conditioning_per_cell_and_per_clip_is_used_and_stays_in_its_clip() -> None:
    torch.manual_seed(0)
    model = VideoDiT(
        latent_channels=3, cell_widths={"action": 2}, clip_widths={"camera": 5}, width=16, depth=1, num_heads=2
    ).eval()
    randomise(model)
    x = Ragged.from_clips([seeded_normal((3, 2, 4, 4), i) for i in range(2)])
    noise = torch.full((64,), 0.5)
    cells, clips = seeded_normal((64, 2), "cells"), seeded_normal((2, 5), "clips")
    with torch.no_grad():
        base = model(x, noise, Conditioning((), {"action": cells}, {"camera": clips}))
        for moved in (
            Conditioning((), {"action": torch.cat([cells[:32], -cells[32:]])}, {"camera": clips}),
            Conditioning((), {"action": cells}, {"camera": clips * torch.tensor([[1.0], [-1.0]])}),
        ):
            other = model(x, noise, moved)
            assert largest_difference(base[:32], other[:32]) < 1e-6
            assert largest_difference(base[32:], other[32:]) > 1e-3


def test_two_noise_levels_in_one_clip_reach_their_own_tokens() -> None:
    torch.manual_seed(0)
    model = VideoDiT(latent_channels=3, width=16, depth=1, num_heads=2).eval()
    randomise(model)
    # Without attention a token's output depends on its own level only.
    model.blocks[0].attention_out.weight.data.zero_()
    x = Ragged.from_clips([seeded_normal((3, 2, 2, 2), 0)])
    with torch.no_grad():
        both = model(x, torch.tensor([0.2] * 4 + [0.9] * 4), Conditioning())
        low, high = (model(x, torch.full((8,), level), Conditioning()) for level in (0.2, 0.9))
    assert largest_difference(both[:4], low[:4]) < 1e-6
    assert largest_difference(both[4:], high[4:]) < 1e-6


def test_begins_as_zero() -> None:
    model = VideoDiT(latent_channels=3, width=16, depth=1, num_heads=2)
    x = Ragged.from_clips([seeded_normal((3, 2, 2, 2), 0)])
    assert model(x, torch.full((8,), 0.5), Conditioning()).abs().max() == 0


def test_head_width_is_checked() -> None:
    with pytest.raises(ValueError, match="width 30 over 4 heads"):
        VideoDiT(latent_channels=3, width=30, num_heads=4)
