"""Muon beside AdamW: the orthogonalisation against its polynomial of singular values, AdamW against torch's."""

import subprocess
import sys

import pytest
import torch
from kinema_core import diffusions, dits
from torch import nn

from kinema.training import DiTModule
from kinema.training.optim import NEWTON_SCHULZ, MuonAdamW, matrix_groups, orthogonalised, trapezoid


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("shape", [(2, 24, 24), (3, 16, 40), (3, 40, 16)])
def test_orthogonalisation_is_the_polynomial_of_the_singular_values(shape, dtype, most):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    expected = u * s[:, None] @ v
    assert (orthogonalised(matrices, dtype=dtype) - expected).abs().max() < most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 192), (128, 128), (192, 64)])
def test_singular_values_stay_bounded_however_far_apart_they_were(dtype, shape):
    """In bfloat16, as on a GPU, too."""
    generator = torch.Generator().manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    low, spread = torch.zeros_like(s), torch.logspace(0, -3, len(s))
    low[0] = 1
    for values in (low, spread):
        out = orthogonalised((u * values @ v)[None], dtype=dtype)[0].float()
        assert torch.isfinite(out).all() and torch.linalg.matrix_norm(out, 2) < 1.3


def test_the_rest_is_adamw():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    optimisers = (
        MuonAdamW([{"params": [ours], "muon": False}], lr=0.1, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.98), weight_decay=0.01),
    )
    for step in range(4):
        for weight, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            (weight * torch.arange(5.0) * (step + 1)).sin().sum().backward()
            optimiser.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((64, 256), 1.0), ((256, 64), 2.0)])
def test_a_muon_step_changes_features_alike_whatever_the_shape(shape, size):
    weight = nn.Parameter(torch.zeros(shape))
    optimiser = MuonAdamW([{"params": [weight], "muon": True}], lr=9.0, muon_lr=0.1)
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    singular = torch.linalg.svdvals(weight.detach()) / 0.1 / size
    assert 0.65 < singular.min() and singular.max() < 1.25


def test_ranks_share_the_work_and_get_the_same(tmp_path):
    """Stacks of three and of one matrix do not go evenly into two ranks."""
    script = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from kinema.training.optim import MuonAdamW

folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.manual_seed(0)
weights = [nn.Parameter(torch.randn(shape)) for shape in ((8, 4), (8, 4), (8, 4), (3, 5))]
optimiser = MuonAdamW([{"params": weights, "muon": True}], lr=1.0)
for _ in range(3):
    for weight in weights:
        weight.grad = torch.randn(weight.shape)
    optimiser.step()
torch.save([weight.data for weight in weights], f"{folder}/{world}-{rank}.pt")
"""

    def run(rank: int, world: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(rank), str(world)])

    assert [process.wait() for process in [run(0, 1), run(0, 2), run(1, 2)]] == [0, 0, 0]
    alone, *shared = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for weights in shared:
        for one, other in zip(alone, weights, strict=True):
            torch.testing.assert_close(one, other)


def test_convolutions_are_matrices_and_outer_layers_are_not_muons():
    module = nn.Sequential(nn.Conv3d(3, 8, 3), nn.Linear(8, 4), nn.Embedding(5, 4), nn.LayerNorm(4))
    muon, rest = matrix_groups(module, outer=[module[1]])
    assert [p.shape for p in muon["params"]] == [module[0].weight.shape]
    assert len(rest["params"]) == 1 + 2 + 1 + 2
    optimiser = MuonAdamW([muon, rest], lr=0.01)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = module[0].weight.detach().clone()
    optimiser.step()
    assert (module[0].weight - before).abs().min() > 0


def test_only_the_narrow_layers_outside_the_blocks_are_not_muons():
    dit = dits.build({"name": "video_dit", "latent_channels": 4, "width": 32, "depth": 1, "num_heads": 2})
    outer = DiTModule(dit, [], diffusions.build({"name": "flow"}))._outer_layers()
    names = {name for name, layer in dit.named_modules() if layer in outer}
    assert {"embed", "project"} <= names
    assert not names & {"modulate", "final_modulate"} and not any(name.startswith("blocks") for name in names)


def test_the_rate_rises_holds_and_falls():
    factor = trapezoid(0.1, 0.4)
    assert [round(factor(p), 6) for p in (0, 0.05, 0.1, 0.5, 0.6, 0.8, 1)] == [0, 0.5, 1, 1, 1, 0.5, 0]
