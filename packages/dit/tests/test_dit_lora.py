"""LoRA: a zero at first, trained alone, merged without a trace, and files that diffusers reads and writes."""

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from kinema_core import Conditioning, Ragged, TextFeatures, seeded_normal
from kinema_core.testing import largest_difference, randomise
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from kinema_dit import VideoDiT, load_wan
from kinema_dit.lora import LORA_TARGETS, add_lora, load_lora, merge_lora, save_lora

CHANNELS = 4


def plain(layout: str = "kinema") -> VideoDiT:
    torch.manual_seed(0)
    dit = VideoDiT(latent_channels=CHANNELS, text_widths=(8,), width=32, depth=2, num_heads=2, layout=layout).eval()
    randomise(dit, scale=0.2)
    return dit


def output(dit: VideoDiT) -> torch.Tensor:
    x = Ragged.from_clips([seeded_normal((CHANNELS, 2, 4, 6), "x")])
    text = TextFeatures(seeded_normal((1, 5, 8), "text"), torch.ones(1, 5, dtype=torch.bool))
    return dit(x, torch.full((48,), 0.6), Conditioning((text,)))


def randomise_adapters(dit: VideoDiT) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, p in dit.named_parameters():
        if "lora_" in name:
            p.data = 0.2 * torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("layout", ["kinema", "wan"])
def test_adapters_begin_as_nothing_learn_alone_and_merge(layout, tmp_path) -> None:
    dit = plain(layout)
    before, weights = output(dit).detach(), {name: p.clone() for name, p in dit.state_dict().items()}
    add_lora(dit, 3, alpha=6)
    assert torch.equal(output(dit), before)
    learning = {name for name, p in dit.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    assert len(learning) == 2 * 2 * len(LORA_TARGETS)
    randomise_adapters(dit)
    output(dit).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in dit.parameters() if p.requires_grad)
    adapted = output(dit).detach()
    assert largest_difference(adapted, before) > 0.1

    save_lora(dit, tmp_path / "lora.safetensors")
    merge_lora(dit)
    assert dit.state_dict().keys() == weights.keys()
    assert largest_difference(output(dit), adapted) < 1e-4
    other = plain(layout)
    load_lora(other, tmp_path / "lora.safetensors")
    assert largest_difference(output(other), adapted) < 1e-4
    load_lora(other, tmp_path / "lora.safetensors", scale=-1.0)
    assert largest_difference(output(other), before) < 1e-4


def test_targets_choose_the_layers() -> None:
    dit = plain()
    add_lora(dit, 2, targets=["cross.q"])
    assert {name.split(".lora")[0] for name, p in dit.named_parameters() if p.requires_grad} == {
        "blocks.0.cross.q",
        "blocks.1.cross.q",
    }


@pytest.fixture
def theirs(tmp_path) -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=8,
        ffn_dim=40,
        num_layers=2,
    ).eval()
    randomise(model, scale=0.2)
    model.save_pretrained(tmp_path / "transformer")
    return model


def their_output(model: WanTransformer3DModel) -> torch.Tensor:
    x = seeded_normal((CHANNELS, 2, 4, 6), "x")[None]
    return model(x, torch.tensor([600.0]), seeded_normal((1, 5, 8), "text")).sample[0].flatten(1).T


def test_diffusers_loads_ours(theirs, tmp_path) -> None:
    ours = load_wan(tmp_path / "transformer")
    add_lora(ours, 3, alpha=1)
    randomise_adapters(ours)
    save_lora(ours, tmp_path / "pytorch_lora_weights.safetensors")
    before = their_output(theirs)
    theirs.load_lora_adapter(load_file(tmp_path / "pytorch_lora_weights.safetensors"), prefix="transformer")
    right = output(ours)
    assert largest_difference(right, before) > 0.1
    assert largest_difference(their_output(theirs), right) < 1e-4 * right.abs().max()


def test_ours_loads_that_of_diffusers(theirs, tmp_path) -> None:
    """As `WanPipeline.save_lora_weights` writes it; their rank is that of each of queries, keys and values."""
    names = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    theirs.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=names, init_lora_weights=False))
    weights = {name: p for name, p in theirs.state_dict().items() if "lora_" in name}
    weights = {name.replace(".default", ""): p for name, p in weights.items()}
    WanPipeline.save_lora_weights(tmp_path, transformer_lora_layers=weights)
    ours = load_wan(tmp_path / "transformer")
    before = output(ours)
    load_lora(ours, tmp_path / "pytorch_lora_weights.safetensors")
    right = their_output(theirs)
    assert largest_difference(right, before) > 0.01
    assert largest_difference(output(ours), right) < 1e-4 * right.abs().max()


@pytest.mark.parametrize("alpha", [1, 8])
def test_alpha_of_a_file_of_diffusers_counts(alpha, theirs, tmp_path) -> None:
    """As a model's own `save_lora_adapter` writes it: the weights unscaled, rank and alpha beside them."""
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_q", "to_out.0"], init_lora_weights=False))
    theirs.save_lora_adapter(tmp_path)
    ours = load_wan(tmp_path / "transformer")
    load_lora(ours, tmp_path / "pytorch_lora_weights.safetensors")
    right = their_output(theirs)
    assert largest_difference(output(ours), right) < 1e-4 * right.abs().max()


def test_what_does_not_fit_is_said_in_a_line(tmp_path) -> None:
    dit = plain()
    with pytest.raises(ValueError, match="the rank of LoRA is 0"):
        add_lora(dit, 0)
    with pytest.raises(ValueError, match="'cross' is no layer for LoRA"):
        add_lora(dit, 2, targets=["cross"])
    with pytest.raises(ValueError, match="no adapters to save"):
        save_lora(dit, tmp_path / "none.safetensors")
    name = "transformer.blocks.0.up"
    for weights, message in (
        ({f"{name}.alpha": torch.ones(1)}, "alpha is no adapter"),
        ({f"{name}.lora_A.weight": torch.ones(2, 32)}, "lacks one of lora_A and lora_B"),
        ({f"{name}.lora_A.weight": torch.ones(2, 9), f"{name}.lora_B.weight": torch.ones(128, 2)}, "of shape"),
        ({"blocks.9.up.lora_A.weight": torch.ones(2, 32)}, "the network has no blocks.9.up.weight"),
    ):
        save_file(weights, tmp_path / "bad.safetensors")
        before = output(dit)
        with pytest.raises(ValueError, match=message):
            load_lora(dit, tmp_path / "bad.safetensors")
        assert torch.equal(output(dit), before)
