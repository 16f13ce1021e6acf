import pytest
import torch
from kinema_core import diffusions, dits, guidances, samplers, text_encoders, vaes

from kinema.pipeline import Pipeline, Request


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """A small random model."""
    torch.manual_seed(0)
    vae = vaes.build({"name": "causal3d", "unshuffle": [4, 4, 4], "strides": [], "widths": [8], "num_blocks": 1})
    text = text_encoders.build({"name": "tiny", "width": 16}).eval()
    widths = {"text_widths": (16,), "pooled_widths": (16,), "latent_channels": vae.latent_channels}
    dit = dits.build({"name": "video_dit", "width": 24, "depth": 1, "num_heads": 2, "patch": [1, 2, 2]}, **widths)
    for weight in dit.parameters():
        if not weight.any():  # what it adds up begins as zero
            torch.nn.init.normal_(weight, std=0.1)
    law, sampler = diffusions.build({"name": "flow"}), samplers.build({"name": "euler"})
    guidance = guidances.build({"name": "cfg", "scale": 2.0})
    return Pipeline(vae.eval(), (text,), dit.eval(), law, sampler, guidance, num_steps=2)


@pytest.fixture
def asked(monkeypatch) -> list[Request]:
    """What the pipeline is asked to generate."""
    requests: list[Request] = []
    generate = Pipeline.generate
    monkeypatch.setattr(Pipeline, "generate", lambda self, r, **k: requests.extend(r) or generate(self, r, **k))
    return requests
