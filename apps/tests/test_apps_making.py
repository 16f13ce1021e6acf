"""Long videos, previews, given images, the step cache and the memory that clips take, with a small random model."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from kinema_core import Clip, dits, guidances, samplers, vaes

from kinema import memory
from kinema.continuing import rollout
from kinema.memory import check_memory, decoder_bytes, free_bytes
from kinema.pipeline import Request
from kinema.previewing import full_size, preview

ASKED = Request("a circle moves", frames=21, height=16, width=20)


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 1, 16, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_stream_is_the_same_clip_piece_by_piece(pipeline, monkeypatch):
    monkeypatch.setattr("kinema.pipeline.STREAMED", 3000)  # two latents
    pieces = list(pipeline.stream(ASKED, seed=3))
    assert [piece.shape[1] for piece in pieces] == [5, 8, 8]
    torch.testing.assert_close(torch.cat(pieces, 1), pipeline.generate([ASKED], seed=3)[0].video, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [9, 10, 21, 30])
def test_a_rollout_has_exactly_the_frames_asked_for(pipeline, frames):
    asked = replace(ASKED, frames=frames)
    pieces = list(rollout(pipeline, asked, window=9, seed=1))
    video = torch.cat(pieces, 1)
    assert video.shape == (3, frames, 16, 20)
    (first,) = pipeline.generate([replace(ASKED, frames=9)], seed=1)
    assert torch.equal(video[:, :9], first.video)
    again = torch.cat(list(rollout(pipeline, asked, window=9, seed=1)), 1)
    assert torch.equal(again, video)


def test_each_window_goes_on_from_the_end_of_the_one_before(pipeline, asked):
    video = torch.cat(list(rollout(pipeline, ASKED, window=13, context=3)), 1)
    assert [request.frames for request in asked] == [13, 13, 13]
    for number, start in ((1, 13), (2, 17)):
        assert torch.equal(asked[number].given, video[:, start - 9 : start])
        assert asked[number].keep_frames == (0, 1, 2)
    assert len({request.id for request in asked}) == 3, "every window has noise of its own"


@pytest.mark.parametrize(("window", "context", "message"), [(5, 2, "no longer than its context"), (10, 2, "9 or 13")])
def test_a_window_that_does_not_fit_is_refused_before_anything_is_made(pipeline, window, context, message):
    with pytest.raises(ValueError, match=message):
        rollout(pipeline, ASKED, window=window, context=context)


@pytest.mark.parametrize(("at", "shown"), [("first", slice(0, 1)), ("middle", slice(9, 13)), ("last", slice(17, 21))])
def test_an_image_is_seen_when_it_should_be(pipeline, at, shown):
    """The latents there are those of a video that stands still at the image."""
    request = pipeline.showing(image(), ASKED, at)
    (latents,) = pipeline.sample([request])
    still = pipeline.vae.encode(image().expand(-1, 21, -1, -1)[None])[0].detach()
    (cell,) = request.keep_frames
    torch.testing.assert_close(latents[:, cell], still[:, cell])
    assert slice(max(0, 4 * cell - 3), 4 * cell + 1) == shown
    made, other = (pipeline.animate([Clip("", image(seed))], [ASKED], at=at)[0].video for seed in (0, 1))
    assert (made - other)[:, shown].abs().mean() > 0.01
    with pytest.raises(ValueError, match="first, middle, last, not 'end'"):
        pipeline.showing(image(), ASKED, "end")


def test_a_preview_is_half_as_large_and_the_rest_follows_it(pipeline):
    small = preview(pipeline, ASKED)
    assert small.video.shape == (3, 21, 8, 10)
    near, far = (full_size(pipeline, small, ASKED, strength=s).video for s in (0.0, 1.0))
    assert near.shape == far.shape == (3, 21, 16, 20)
    enlarged = torch.nn.functional.interpolate(small.video.transpose(0, 1), (16, 20), mode="bicubic").transpose(0, 1)
    decoded = pipeline.vae.decode(pipeline.vae.encode(enlarged.clamp(-1, 1)[None]), size=(16, 20))[0].clamp(-1, 1)
    torch.testing.assert_close(near, decoded.detach(), rtol=0, atol=1e-5)
    odd = preview(pipeline, replace(ASKED, height=17, width=19))
    assert odd.video.shape == (3, 21, 9, 10)


def test_only_patches_that_are_given_whole_are_kept(pipeline):
    """With two latent frames a patch the first frame alone fills none, and of three latents a pair is kept."""
    widths = {"text_widths": (16,), "pooled_widths": (16,), "latent_channels": pipeline.vae.latent_channels}
    shape = {"name": "video_dit", "width": 24, "depth": 1, "num_heads": 2, "patch": [2, 2, 2]}
    pairs = replace(pipeline, dit=dits.build(shape, **widths).eval())
    with pytest.raises(ValueError, match="no patch of 2 latent frames is given whole"):
        pairs.animate([Clip("", image())], [ASKED])
    given = torch.rand(3, 9, 16, 20) * 2 - 1
    (latents,) = pairs.sample([replace(ASKED, given=given, keep_frames=(0, 1, 2))])
    encoded = pipeline.vae.encode(given[None])[0].detach()
    torch.testing.assert_close(latents[:, :2], encoded[:, :2])
    assert (latents[:, 2] - encoded[:, 2]).abs().max() > 0.1
    assert latents[:, 3].abs().min() > 0, "what is not given is made"


def test_guidance_leads_away_from_the_negative_prompt(pipeline):
    """One Euler step from noise gives the clean estimate itself, which guidance extrapolates linearly."""

    def made(prompt: str, negative: str, scale: float) -> torch.Tensor:
        guidance = guidances.build({"name": "cfg", "scale": scale})
        guided = replace(pipeline, guidance=guidance, num_steps=1, negative_prompt=negative)
        return guided.sample([replace(ASKED, prompt=prompt)])[0]

    circle, square, nothing = (made(prompt, "", 1.0) for prompt in ("a circle", "a square", ""))
    torch.testing.assert_close(made("a circle", "a square", 3.0), 3 * circle - 2 * square, rtol=0, atol=1e-4)
    torch.testing.assert_close(made("a circle", "", 3.0), 3 * circle - 2 * nothing, rtol=0, atol=1e-4)
    assert min((circle - other).abs().max() for other in (square, nothing)) > 1e-2


def test_sdedit_begins_with_a_given_clip(pipeline):
    edits = replace(pipeline, sampler=samplers.build({"name": "sdedit"}))
    with pytest.raises(ValueError, match="SDEditSampler begins with a given clip"):
        edits.generate([ASKED])
    with pytest.raises(ValueError, match="a sampler that begins with noise"):
        samplers.build({"name": "sdedit", "base": {"name": "sdedit"}})


def test_the_step_cache_saves_work_and_clips_do_not_depend_on_each_other(pipeline):
    many = replace(pipeline, num_steps=24)
    cached, careful = (replace(many, step_cache=threshold) for threshold in (0.2, 1e-9))
    requests = [ASKED, replace(ASKED, id="1", frames=9, prompt="a square"), replace(ASKED, id="2", frames=1)]
    tokens: list[int] = []
    hook = pipeline.dit.register_forward_pre_hook(lambda _, inputs: tokens.append(len(inputs[0].values)))
    together = cached.sample(requests)
    spent = sum(tokens)
    tokens.clear()
    plain = many.sample(requests)
    hook.remove()
    assert spent < 0.7 * sum(tokens)
    for i, request in enumerate(requests):
        (alone,) = cached.sample([request])
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-4)
        torch.testing.assert_close(careful.sample([request])[0], plain[i], rtol=0, atol=1e-4)
        far = (alone - plain[i]).abs().mean()
        assert 0 < far < 0.3 * plain[i].abs().mean()


def test_a_clip_larger_than_the_memory_is_refused_at_once(pipeline):
    with pytest.raises(ValueError, match=r"1441 frames of 20000 x 20000 pixels take at least \d.* GiB more memory"):
        pipeline.check([replace(ASKED, frames=1441, height=20000, width=20000)])
    check_memory(pipeline.vae, pipeline.dit, 21, 16, 20)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_no_clip_is_refused_that_fits(pipeline, monkeypatch):
    """What is asked for is a bound from below: decoding takes more than the estimate, as a process of its own shows."""
    height = width = 512
    script = f"""
import torch
from pathlib import Path
from kinema_core import vaes

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

torch.set_num_threads(1)
vae = vaes.build({{"name": "causal3d", "preset": "demo"}}).eval()
z = torch.randn(1, vae.latent_channels, 2, {height // 4}, {width // 4})
before = peak()
with torch.no_grad():
    vae.decode(z)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    vae = vaes.build({"name": "causal3d", "preset": "demo"})
    assert 0.1 * int(done.stdout) < decoder_bytes(vae, height, width) < int(done.stdout)
    free = free_bytes(torch.device("cpu"))
    monkeypatch.setattr(memory, "free_bytes", lambda _: 0.1 * free)
    check_memory(pipeline.vae, pipeline.dit, 21, 16, 20)
