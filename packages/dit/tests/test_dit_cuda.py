"""On a GPU: the kernels that are only there give what the CPU gives, and packed equals alone."""

import copy

import pytest
import torch
from kinema_core import Conditioning, Ragged, TextFeatures, seeded_normal
from kinema_core.testing import randomise

from kinema_dit import VideoDiT, attention
from kinema_dit.attention import LONG, packed_attention
from kinema_dit.packing import pack

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MODES = {
    "full": {},
    "window": {"attention": "window", "window": (2, 3, 2)},
    "block_causal": {"attention": "block_causal", "block": 2, "context": 1},
    "joint": {"text_attention": "joint"},
}
GRIDS = ((3, 4, 4), (1, 3, 5), (2, 4, 6), (3, 4, 4), (1, 2, 2))


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.double().cpu(), other.double().cpu()
    return ((one - other).norm() / other.norm()).item()


def model(mode: str) -> VideoDiT:
    torch.manual_seed(0)
    plain = {"latent_channels": 4, "width": 128, "depth": 2, "num_heads": 2, "patch": (1, 1, 1), "text_widths": (8,)}
    dit = VideoDiT(**plain, **MODES[mode], pooled_widths=(6,)).eval()
    randomise(dit, scale=0.05)
    return dit


def inputs() -> tuple[Ragged, torch.Tensor, Conditioning]:
    x = Ragged.from_clips([seeded_normal((4, *grid), i) for i, grid in enumerate(GRIDS)])
    mask = torch.arange(7)[None] < torch.arange(len(GRIDS))[:, None] % 4 + 3
    text = TextFeatures(seeded_normal((len(GRIDS), 7, 8), "tokens"), mask, seeded_normal((len(GRIDS), 6), "pooled"))
    return x, x.per_cell(torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7])), Conditioning((text,))


@pytest.fixture(params=["varlen", "cudnn", "equal lengths"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which kernel the small clips of these tests go; with cuDNN's all from 8 tokens on."""
    if request.param == "cudnn":
        monkeypatch.setattr(attention, "LONG", 8)
    monkeypatch.setattr(attention, "VARLEN", request.param != "equal lengths")


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_output_and_gradients_are_those_of_the_cpu(mode: str, dtype: torch.dtype, most: float) -> None:
    dit = model(mode)
    x, noise, cond = inputs()
    expected = dit(x, noise, cond)
    expected.square().sum().backward()
    other = copy.deepcopy(dit).cuda()
    other.zero_grad()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        out = other(x.to("cuda"), noise.cuda(), cond.to("cuda"))
    out.float().square().sum().backward()
    assert relative(out, expected) < most
    for one, parameter in zip(other.parameters(), dit.parameters(), strict=True):
        if parameter.grad is not None and parameter.grad.norm() > 1e-3:
            assert relative(one.grad, parameter.grad) < 3 * most


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_equals_alone(dtype: torch.dtype) -> None:
    dit = model("full").cuda()
    x, noise, cond = inputs()
    with torch.no_grad(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        packed = dit(x.to("cuda"), noise.cuda(), cond.to("cuda")).split(x.lengths)
        for i, (part, level) in enumerate(zip(x.split(), noise.split(x.lengths), strict=True)):
            text = tuple(features[i : i + 1] for features in cond.to("cuda").text)
            alone = dit(part.to("cuda"), level.cuda(), Conditioning(text))
            assert relative(packed[i], alone) < (1e-5 if dtype == torch.float32 else 2e-2)


def test_both_kernels_of_a_pack_of_short_and_long_clips() -> None:
    grids = ((1, 8, 8), (1, 8, 8), (3, 5, 7), (2, 45, 51), (2, 64, 64), (2, 64, 64))
    packing = pack(grids, (1, 1, 1), torch.device("cuda"))
    assert packing.groups[0][1] < LONG <= packing.groups[-1][1]
    qkv = [seeded_normal((len(packing.clip), 2, 64), i).cuda().requires_grad_() for i in range(3)]
    out = packed_attention(*(x.bfloat16() for x in qkv), packing)
    weight = seeded_normal(tuple(out.shape), "weight").cuda()
    got = torch.autograd.grad((out.float() * weight).sum(), qkv)
    wide = packed_attention(*qkv, packing)
    expected = torch.autograd.grad((wide * weight).sum(), qkv)
    assert relative(out, wide) < 2e-2
    assert all(relative(a, b) < 2e-2 for a, b in zip(got, expected, strict=True))


def test_compiled_blocks_give_the_same() -> None:
    plain = model("full").cuda()
    compiled = copy.deepcopy(plain)
    compiled.compile()
    x, noise, cond = inputs()
    results = []
    for dit in (plain, compiled):
        with torch.autocast("cuda", torch.bfloat16):
            out = dit(x.to("cuda"), noise.cuda(), cond.to("cuda"))
        out.float().square().sum().backward()
        results.append((out, torch.cat([p.grad.flatten() for p in dit.parameters() if p.grad is not None])))
    assert relative(results[1][0], results[0][0]) < 2e-2
    assert relative(results[1][1], results[0][1]) < 5e-2
