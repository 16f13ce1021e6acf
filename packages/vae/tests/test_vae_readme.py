"""The README's examples run."""

import re
from pathlib import Path

import pytest
import torch

from kinema_vae import Causal3D, save_wan

BLOCKS = re.findall(r"```python\n(.*?)```", Path(__file__).parents[1].joinpath("README.md").read_text(), re.DOTALL)


def run(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})  # the project's own file


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run(BLOCKS[0])
    assert capsys.readouterr().out == "torch.Size([1, 3, 5, 32, 48])\ntorch.Size([1, 3, 4, 32, 48])\n"


def test_weights_of_wan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    small = Causal3D(preset="wan21", latent_channels=4, widths=(4, 8, 8, 8), num_blocks=1)
    save_wan(small, "Wan2.1-T2V-1.3B-Diffusers/vae")
    run(BLOCKS[1])
    name = "diffusion_pytorch_model.safetensors"
    assert Path("back", name).read_bytes() == Path("Wan2.1-T2V-1.3B-Diffusers/vae", name).read_bytes()
