"""A clip is a function of its request and the seed: alone, in a batch, in another process; float32 and float64."""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from kinema_core import samplers

from kinema.pipeline import Request

STILL = torch.zeros(3, 1, 18, 16)
#: Sizes, prompts and tasks mixed.
REQUESTS = [
    Request("a red circle moves", frames=9, height=16, width=20, id="first"),
    Request("", frames=1, height=24, width=16, id="second"),
    Request("a blue square", frames=5, height=18, width=16, id="third", given=STILL, keep_frames=(0,)),
    Request("a green cross rests on grey", frames=13, height=16, width=16, id="fourth"),
]
#: Which of them each of two processes makes.
SHARES = {"one.pt": (0, 2), "other.pt": (3, 1)}
SCRIPT = """
import sys, torch
source, out, *chosen = sys.argv[1:]
torch.set_num_threads(1)
pipeline, requests = torch.load(source, weights_only=False)
torch.save(pipeline.sample([requests[int(i)] for i in chosen], seed=5), out)
"""


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
@pytest.mark.parametrize("sampler", [{"name": "dpmpp_2m"}, {"name": "ddim", "eta": 1.0}], ids=lambda s: s["name"])
def test_alone_in_a_batch_and_on_two_processes(pipeline, tmp_path, dtype, bound, sampler):
    pipeline = replace(copy.deepcopy(pipeline), sampler=samplers.build(sampler), num_steps=6)
    for module in (pipeline.vae, *pipeline.text, pipeline.dit):
        module.to(dtype)
    torch.save((pipeline, REQUESTS), tmp_path / "all.pt")
    command = [sys.executable, "-c", SCRIPT, tmp_path / "all.pt"]
    processes = [subprocess.Popen([*command, tmp_path / out, *map(str, part)]) for out, part in SHARES.items()]

    together = pipeline.sample(REQUESTS, seed=5)

    assert [process.wait() for process in processes] == [0, 0]
    apart = {i: z for out, part in SHARES.items() for i, z in zip(part, torch.load(tmp_path / out), strict=True)}
    for i, (request, whole) in enumerate(zip(REQUESTS, together, strict=True)):
        assert whole.dtype == dtype
        (alone,) = pipeline.sample([request], seed=5)
        torch.testing.assert_close(alone, whole, rtol=0, atol=bound)
        torch.testing.assert_close(apart[i], whole, rtol=0, atol=bound)
    (other,) = pipeline.sample(REQUESTS[:1], seed=6)
    assert (other - together[0]).abs().max() > 0.1


def test_noise_is_the_same_bit_for_bit_in_any_company(pipeline, monkeypatch):
    drawn: list[torch.Tensor] = []

    def keep(denoise, x, times, law, *, noise, callback=None):
        drawn.extend([x, noise(0), noise(3)])
        return x

    monkeypatch.setattr(type(pipeline.sampler), "__call__", lambda self, *args, **options: keep(*args, **options))
    pipeline.sample(REQUESTS[:2], seed=1)
    for request in reversed(REQUESTS[:2]):
        pipeline.sample([request], seed=1)
    batch, second, first = drawn[:3], drawn[3:6], drawn[6:]
    assert all(torch.equal(whole, torch.cat(parts)) for whole, *parts in zip(batch, first, second, strict=True))
    assert not torch.equal(batch[1], batch[2])
