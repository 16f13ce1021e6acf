"""Named sizes have the published numbers of parameters; costs are what torch counts."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from kinema_core import Conditioning, Ragged, TextFeatures
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kinema_dit import SIZES, VideoDiT, forward_flops, num_parameters

WAN = {
    "1.3B": {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    "5B": {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48},
    "14B": {},
}


@pytest.mark.parametrize("size", WAN)
def test_wans_sizes_have_as_many_parameters_as_in_diffusers(size):
    with torch.device("meta"):
        theirs = WanTransformer3DModel(**WAN[size])
        channels = WAN[size].get("in_channels", 16)
        ours = VideoDiT(latent_channels=channels, text_widths=(4096,), pooled_widths=(None,), size=size, layout="wan")
    assert num_parameters(ours) == num_parameters(theirs)


def test_dits_sizes_grow_as_published():
    """DiT has 33, 130, 458 and 675 million; ours share one modulation layer instead of one a block: fewer."""
    published = {"S": 33e6, "B": 130e6, "L": 458e6, "XL": 675e6}
    for size, count in published.items():
        with torch.device("meta"):
            found = num_parameters(VideoDiT(latent_channels=4, size=size))
        assert 0.6 * count < found < count
    with pytest.raises(ValueError, match="size 'M' is unknown; known are S, B, L"):
        VideoDiT(latent_channels=4, size="M")
    assert set(SIZES) == {*published, *WAN}


@pytest.mark.parametrize(
    ("layout", "attention", "text"),
    [("kinema", "full", "cross"), ("kinema", "full", "joint"), ("wan", "full", "cross"), ("kinema", "window", "cross")],
)
def test_flops_are_those_that_torch_counts(layout, attention, text):
    image = {"image_width": 9} if layout == "wan" else {}
    dit = VideoDiT(
        latent_channels=3,
        text_widths=(5, 7),
        pooled_widths=(None, 4),
        cell_widths={"a": 2},
        clip_widths={"b": 6},
        width=24,
        depth=3,
        num_heads=2,
        cross_every=2,
        layout=layout,
        attention=attention,
        text_attention=text,
        window=(2, 1, 2),
        **image,
    ).eval()
    clips = [torch.randn(3, 3, 4, 4), torch.randn(3, 1, 6, 4), torch.randn(3, 3, 4, 4)]
    x = Ragged.from_clips(clips)
    noise = torch.cat([(torch.arange(n) >= n // 3).float() * 0.5 + 0.1 for n in x.lengths])

    def stream(length: int, width: int, pooled: int | None) -> TextFeatures:
        mask = torch.ones(3, length, dtype=torch.bool)
        return TextFeatures(torch.randn(3, length, width), mask, None if pooled is None else torch.randn(3, pooled))

    streams = [stream(6, 5, None), stream(4, 7, 4), *([stream(8, 9, None)] if image else [])]
    cond = Conditioning(tuple(streams), {"a": torch.randn(len(noise), 2)}, {"b": torch.randn(3, 6)})
    # The counter does not know the CPU's fused attention.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        dit(x, noise, cond)
    grids = [(3, 2, 2), (1, 3, 2), (3, 2, 2)]
    found = forward_flops(dit, grids, text_tokens=[6, 4], image_tokens=8 if image else 0, levels=2)
    assert found == counter.get_total_flops()
