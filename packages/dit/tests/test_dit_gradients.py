"""Functions with gradients of their own, against automatic differentiation of the plain formulas in float64."""

from functools import partial

import pytest
import torch
from torch.nn.functional import gelu, rms_norm

from kinema_dit.activations import gelu_tanh
from kinema_dit.levels import Levels
from kinema_dit.norms import EPS, rms_normed
from kinema_dit.positions import rotate


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def check(ours, plain, *inputs: torch.Tensor) -> None:
    """Equal values, and equal gradients with respect to all inputs for a random gradient of the output."""
    y, expected = ours(*inputs), plain(*inputs)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    grad = torch.randn_like(y)
    for one, other in zip(*(torch.autograd.grad(out, inputs, grad) for out in (y, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("axes", "gain"), [(1, (8,)), (1, (2, 1, 8)), (2, (2, 3, 8))])
def test_normalisation(axes, gain) -> None:
    def plain(x, g):
        return rms_norm(x, x.shape[-axes:], eps=EPS) * g

    check(lambda x, g: rms_normed(x, g, axes), plain, values(5, 2, 3, 8), values(*gain, seed=1))


def test_normalisation_squares_in_the_precision_of_the_gain() -> None:
    x, gain = values(64, 8).detach().float(), torch.ones(8)
    rough = rms_normed(x.bfloat16(), gain)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, rms_normed(x.bfloat16().float(), gain), rtol=0, atol=0)


def test_turning() -> None:
    angle = values(5, 1, 1, 4, seed=1).detach()

    def plain(x):
        first, second = x.chunk(2, dim=-1)
        turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], dim=-1)

    check(lambda x: rotate(x, angle.cos(), angle.sin()), plain, values(5, 2, 3, 8))


def test_rows_of_levels() -> None:
    noise = torch.tensor([0.5, 0.0, 0.5, 0.5, 0.25, 0.0], dtype=torch.float64)
    levels = Levels.of(noise, torch.tensor([0, 0, 0, 2, 1, 1]))
    assert levels.noise.tolist() == [0.0, 0.5, 0.0, 0.25, 0.5] and levels.clip.tolist() == [0, 0, 1, 1, 2]
    check(levels.rows, lambda table: table[levels.index], values(5, 3))


@pytest.mark.parametrize(("clip", "uniform"), [([0, 0, 1, 1], True), ([0, 1, 1, 0], False), ([0, 1, 1, 1], False)])
def test_rows_of_uniform_levels(clip: list[int], uniform: bool) -> None:
    levels = Levels.of(torch.full((4,), 0.5, dtype=torch.float64), torch.tensor(clip), look=True)
    assert levels.uniform is uniform
    check(levels.rows, lambda table: table[levels.index], values(2, 3))


def test_gelu_in_compiled_graphs() -> None:
    ends = torch.tensor([-800.0, -30.0, 0.0, 30.0, 800.0], dtype=torch.float64)
    x = torch.cat([values(50).detach(), ends]).requires_grad_()
    compiled = torch.compile(gelu_tanh, backend="eager")
    check(compiled, partial(gelu, approximate="tanh"), x)
    assert torch.equal(gelu_tanh(x), gelu(x, approximate="tanh")), "eager is torch's own"
    assert not torch.equal(compiled(x), gelu_tanh(x)), "compiled is another sum of roundings"
