"""On an accelerator, shown by tensors that know their device but hold no values: PyTorch refuses to mix two devices."""

import torch
from kinema_core import Conditioning, DiT, Ragged, TextEncoder, TextFeatures, diffusions, guidances, samplers, vaes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kinema.pipeline import Pipeline, Request, reconstruct
from kinema.text_cache import CachedText

#: Of no machine, but known to every build of PyTorch.
ELSEWHERE = torch.device("lazy:0")


class Lengths(TextEncoder):
    """One token a caption; its features do not depend on values, which tensors do not have here."""

    width, pooled_width = 16, 16

    def __init__(self, trainable: bool) -> None:
        super().__init__()
        self.trainable = trainable
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, captions: list[str]) -> TextFeatures:
        lengths = torch.tensor([[len(caption)] for caption in captions], device=self.weight.device)
        pooled = lengths * self.weight  # (B, 16)
        return TextFeatures(pooled[:, None], torch.ones_like(lengths, dtype=torch.bool), pooled)


class Plain(DiT):
    """A network that looks at no value."""

    patch = (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
        text = sum(stream.tokens.mean((1, 2)) for stream in cond.text)  # (B,)
        return (x.values + (noise + x.per_cell(text))[:, None] + x.positions[:, :1]) * self.weight


def _move(network: nn.Module) -> None:
    """As `network.to(ELSEWHERE)`, which tensors without values do not support."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(weight, device=ELSEWHERE))
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty_like(value, device=ELSEWHERE)


def test_generate_and_reconstruct():
    given = torch.zeros(3, 1, 16, 16)
    requests = [Request("a red circle", 5, 16, 16, given=given, keep_frames=(0,)), Request("", 9, 16, 24)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        # All of the model is on the accelerator, except for a frozen text encoder.
        vae = vaes.build({"name": "causal3d", "unshuffle": [4, 4, 4], "strides": [], "widths": [8], "num_blocks": 1})
        text = (CachedText(Lengths(trainable=False)), Lengths(trainable=True))
        dit = Plain()
        for network in (vae, text[1], dit):
            _move(network)
        law, sampler = diffusions.build({"name": "flow"}), samplers.build({"name": "dpmpp_2m"})
        guidance = guidances.build({"name": "cfg", "scale": 1.0})  # a scale that guides asks for values

        clips = Pipeline(vae.eval(), text, dit, law, sampler, guidance, num_steps=2).generate(requests)
        again = reconstruct(vae, clips[0])

    assert [tuple(clip.video.shape) for clip in clips] == [(3, 5, 16, 16), (3, 9, 16, 24)]
    assert {clip.video.device.type for clip in (*clips, again)} == {"cpu"}
