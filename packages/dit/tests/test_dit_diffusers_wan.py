"""The peer `diffusers_wan`: what it gives is what our network gives with its weights, clip by clip."""

import pytest
import torch
from kinema_core import dits, seeded_normal
from kinema_core.testing import DiTContract, largest_difference, randomise

from kinema_dit import load_wan
from kinema_dit.diffusers_wan import DiffusersWanDiT


def make(**kwargs) -> DiffusersWanDiT:
    torch.manual_seed(0)
    shape = {"width": 40, "depth": 2, "num_heads": 2, "patch": (1, 2, 3), "ffn_ratio": 2.0}
    dit = DiffusersWanDiT(latent_channels=4, text_widths=(8,), pooled_widths=(None,), **shape, **kwargs).eval()
    randomise(dit, scale=0.1)
    return dit


@pytest.mark.parametrize("cells", [{}, {"source": 3}])
@torch.no_grad()
def test_it_is_our_network_with_its_weights(cells, tmp_path) -> None:
    """Clips of several sizes, none a multiple of the patch, text padded unequally, a noise level a token."""
    theirs = make(cell_widths=cells)
    theirs.model.save_pretrained(tmp_path)
    ours = load_wan(tmp_path)
    contract = DiTContract()
    contract.pooled_widths = (None,)
    x, noise, cond = contract.inputs()
    x = type(x).from_clips(x.clips())  # at the rate at which Wan's positions count frames
    noise[-8:] = 0.2
    cond = type(cond)(cond.text, {name: seeded_normal((len(noise), width), name) for name, width in cells.items()})
    found, right = theirs(x, noise, cond), ours(x, noise, cond)
    assert right.std() > 0.1
    assert largest_difference(found, right) < 1e-4 * right.abs().max()


def test_found_by_name_and_refuses_what_it_cannot_read() -> None:
    assert dits.get("diffusers_wan") is DiffusersWanDiT
    for wrong in ({"text_widths": ()}, {"text_widths": (8, 5)}, {"text_widths": (8,), "clip_widths": {"camera": 2}}):
        with pytest.raises(ValueError, match="one text encoder and no features per clip"):
            DiffusersWanDiT(latent_channels=4, **wrong)
