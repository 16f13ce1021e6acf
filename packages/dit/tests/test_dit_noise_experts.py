"""Two transformers by noise level: each clip gets the output of the expert of its highest level."""

import pytest
import torch
from kinema_core import dits
from kinema_core.testing import DiTContract, largest_difference, randomise

from kinema_dit import NoiseExperts

EXPERT = {"width": 24, "depth": 1, "num_heads": 2, "patch": (1, 2, 2)}


class TestNoiseExperts(DiTContract):
    # Of the contract's clips one has a level above, three below.
    def make(self) -> NoiseExperts:
        torch.manual_seed(0)
        widths = {"text_widths": self.text_widths, "pooled_widths": self.pooled_widths}
        return NoiseExperts(latent_channels=self.latent_channels, **widths, boundary=0.6, expert=EXPERT)


@torch.no_grad()
def test_clips_go_by_their_highest_level() -> None:
    contract = TestNoiseExperts()
    experts = contract.model()
    x, noise, cond = contract.inputs()
    levels = x.per_cell(torch.tensor([0.6, 0.59, 0.9, 0.0]))
    levels[: x.lengths[0] // 2] = 0.0  # given cells of a clip of high noise
    found = experts(x, levels, cond).split(x.lengths)
    high, low = (expert(x, levels, cond).split(x.lengths) for expert in (experts.high, experts.low))
    for i, right in enumerate((high[0], low[1], high[2], low[3])):
        assert largest_difference(found[i], right) < 1e-5
    assert largest_difference(high[0], low[0]) > 0.1
    for noise, expert in ((0.9, experts.high), (0.2, experts.low)):
        level = torch.full_like(levels, noise)
        assert torch.equal(experts(x, level, cond), expert(x, level, cond))


def test_both_learn_from_a_mixed_pack() -> None:
    contract = TestNoiseExperts()
    experts = contract.model()
    randomise(experts, scale=0.1)
    experts(*contract.inputs()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in experts.parameters())


def test_mistakes() -> None:
    assert dits.get("noise_experts") is NoiseExperts
    with pytest.raises(ValueError, match=r"boundary is 1\.5"):
        NoiseExperts(latent_channels=4, boundary=1.5)
    with pytest.raises(ValueError, match="settings of video_dit: .*'dept'"):
        NoiseExperts(latent_channels=4, expert={"dept": 2})
