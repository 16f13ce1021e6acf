"""Extending, connecting, looping and editing with a small random model: what is given stays, sizes are exact."""

from dataclasses import replace

import pytest
import torch
from kinema_core import Clip

from kinema.continuing import connect, extend, loop, matched
from kinema.editing import edit, framed
from kinema.pipeline import reconstruct
from kinema.seams import mended
from kinema.tasks import region_mask


def clip(frames: int = 9, seed: int = 0, size: tuple[int, int] = (16, 20)) -> Clip:
    video = torch.rand(3, frames, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Clip(f"clip{seed}", video, 8.0)


@pytest.mark.parametrize(("before", "after"), [(0, 4), (0, 3), (4, 0), (5, 0), (1, 0), (6, 7)])
def test_extended_by_exactly_as_many_frames_around_the_given_ones(pipeline, before, after):
    given = clip()
    made = extend(pipeline, given, "a circle moves", before=before, after=after)
    assert made.video.shape == (3, before + 9 + after, 16, 20)
    assert torch.equal(made.video[:, before : before + 9], given.video)
    again = extend(pipeline, given, "a circle moves", before=before, after=after)
    assert torch.equal(made.video, again.video)
    other = extend(pipeline, given, "a circle moves", before=before, after=after, seed=1)
    new = torch.ones(before + 9 + after, dtype=torch.bool)
    new[before : before + 9] = False
    changed = (made.video - other.video).abs().amax((0, 2, 3)) > 0
    assert torch.equal(changed, new), "each new frame, and no other, depends on the seed"


def test_the_context_is_what_the_video_ends_and_begins_with(pipeline, asked):
    """It is 1 + st (c - 1) frames at the new clip's beginning, st c at its end."""
    one, other = clip(13), clip(17, seed=1)
    extend(pipeline, one, "", after=6, before=6, context=3)
    before, after = asked[:2]
    assert torch.equal(after.given, one.video[:, -9:]) and after.keep_frames == (0, 1, 2) and after.frames == 17
    assert torch.equal(before.given[:, 9:], one.video[:, :12]) and before.keep_frames == (3, 4, 5)
    assert before.given.shape[1] == before.frames == 21
    asked.clear()
    connect(pipeline, one, other, "", frames=8)
    between = asked[0]
    assert torch.equal(between.given[:, :5], one.video[:, -5:])
    assert torch.equal(between.given[:, 13:], other.video[:, :8])
    assert between.keep_frames == (0, 1, 4, 5) and between.frames == 21
    # What the frames before the tail are does not matter to a still beginning: they are its first frame.
    assert torch.equal(between.given[:, 5:13], other.video[:, :1].expand(-1, 8, -1, -1))


def test_seams_are_drawn_over_half_a_latent_further_on(pipeline, asked, monkeypatch):
    """Given and new frames then share a latent. Without noise they are only coded once more, and mended."""
    monkeypatch.setattr("kinema.continuing.OVER", 0.0)
    one, other = clip(13), clip(17, seed=1)
    extend(pipeline, one, "", after=6, before=6, context=3)
    before, after = asked[2:]
    # Of 13 frames 2 are drawn over: 11 hold a context of 1 + 4 + 4 at the beginning, of 4 + 4 at the end.
    assert torch.equal(after.given[:, :11], one.video[:, -11:]) and after.keep_frames == (0, 1, 2)
    assert after.given.shape[1] == after.frames == 17
    assert torch.equal(before.given[:, -10:], one.video[:, :10]) and before.keep_frames == (3, 4)
    assert before.given.shape[1] == before.frames == 17
    asked.clear()
    made = connect(pipeline, one, other, "", frames=8).video[:, 13:21]
    between = asked[1]
    assert torch.equal(between.given[:, :7], one.video[:, -7:]) and between.keep_frames == (0, 1, 5, 6)
    assert torch.equal(between.given[:, 15:], other.video[:, :10]) and between.frames == 25
    coded = reconstruct(pipeline.vae, replace(one, video=between.given)).video
    new = mended(coded[:, 7:15], one.video[:, -1:], coded[:, 6:7])
    new = mended(new.flip(1), other.video[:, :1], coded[:, 15:16]).flip(1)
    torch.testing.assert_close(made, new, rtol=0, atol=1e-5)
    monkeypatch.undo()
    assert (connect(pipeline, one, other, "", frames=8).video[:, 13:21] - made).abs().mean() > 0.01


def test_a_video_as_long_as_the_context_is_all_of_it(pipeline, asked):
    for frames, sides in ((5, {"after": 4}), (8, {"before": 5})):
        given = clip(frames)
        made = extend(pipeline, given, "", **sides)
        assert made.video.shape[1] == frames + sum(sides.values())
        assert torch.equal(asked[-2].given[:, -frames:], given.video)
    asked.clear()
    extend(pipeline, clip(2), "", after=4, context=1)
    assert len(asked) == 1, "with nothing left beside the frames that are drawn over they are not"


def test_loops_and_connections_keep_both_ends(pipeline):
    one, other = clip(9), clip(12, seed=1)
    joined = connect(pipeline, one, other, "", frames=4).video
    assert joined.shape[1] == 25
    assert torch.equal(joined[:, :9], one.video) and torch.equal(joined[:, 13:], other.video)
    circle = loop(pipeline, one, "", frames=8).video
    assert circle.shape[1] == 17 and torch.equal(circle[:, :9], one.video)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: extend(p, clip(), ""), "ask for at least one"),
        (lambda p: extend(p, clip(4), "", after=4), "4 frames is shorter than a context of 2 latents, 5 frames"),
        (lambda p: extend(p, clip(7), "", before=4), "7 frames is shorter than a context of 2 latents, 8 frames"),
        (lambda p: loop(p, clip(), "", frames=6), "6 frames do not fit .* use 4 or 8"),
        (lambda p: connect(p, clip(), clip(9, 1, (16, 16)), "", frames=4), "16 x 20 and 16 x 16"),
        (lambda p: edit(p, clip(), "", strength=1.5), "strength = 1.5"),
        (lambda p: edit(p, clip(), "", keep=torch.ones(4, 4, dtype=torch.bool)), "4 x 4 pixels, the clip 16 x 20"),
        (lambda _: framed(clip(), 8, 40), "smaller than the clip, 16 x 20"),
    ],
)
def test_mistakes_name_the_value(pipeline, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipeline)


def test_matched_in_size_and_rate():
    fast = replace(clip(17, size=(8, 8)), frame_rate=16.0)
    slow = matched(fast, clip())
    assert slow.video.shape == (3, 8, 16, 20) and slow.frame_rate == 8.0
    same_size = matched(replace(fast, frame_rate=8.0), replace(clip(size=(8, 8)), frame_rate=8.0))
    assert torch.equal(same_size.video, fast.video)
    only_rate = matched(fast, replace(clip(size=(8, 8)), frame_rate=8.0))
    assert torch.equal(only_rate.video, fast.video[:, :16:2])


def test_edit_from_what_is_given_to_all_new(pipeline):
    given = clip(9)
    still = edit(pipeline, given, "a square", strength=0.0)
    torch.testing.assert_close(still.video, reconstruct(pipeline.vae, given).video, rtol=0, atol=1e-5)
    half, whole = (edit(pipeline, given, "a square", strength=s).video for s in (0.5, 1.0))
    # At strength 1 the flow law leaves nothing of the given clip.
    other = edit(pipeline, replace(clip(9, seed=3), id=given.id), "a square", strength=1.0).video
    torch.testing.assert_close(whole, other, rtol=0, atol=1e-5)
    assert not torch.allclose(half, whole, atol=1e-3)
    assert edit(pipeline, clip(7), "", strength=0.5).video.shape[1] == 7


def test_a_kept_region_stays_to_the_pixel_and_holds_the_rest(pipeline):
    given, keep = clip(5), torch.zeros(16, 20, dtype=torch.bool)
    keep[:, :9] = True
    made = edit(pipeline, given, "a square", strength=1.0, keep=keep).video
    assert torch.equal(made[:, :, :, :9], given.video[:, :, :, :9])
    assert (made - given.video)[:, :, :, 9:].abs().max() > 0.01
    other = given.video.clone()
    other[..., :8] *= -1
    changed = edit(pipeline, replace(given, video=other), "a square", strength=1.0, keep=keep).video
    assert (changed - made)[..., 9:].abs().max() > 1e-4, "the rest is made to fit what is kept"


def test_out_painting_keeps_the_middle(pipeline):
    given, own = framed(clip(5), 24, 30)
    assert own.sum() == 16 * 20 and torch.equal(given.video[:, :, 4:20, 5:25], clip(5).video)
    made = edit(pipeline, given, "", strength=1.0, keep=own).video
    assert made.shape == (3, 5, 24, 30) and torch.equal(made[:, :, 4:20, 5:25], clip(5).video)


def test_patches_are_kept_where_every_pixel_is():
    keep = torch.ones(16, 20, dtype=torch.bool)
    keep[3, 9] = False
    found = region_mask((2, 4, 5), keep, (4, 4), (1, 2, 2))
    expected = torch.ones(2, 4, 5, dtype=torch.bool)
    expected[:, :2, 2:4] = False
    assert torch.equal(found, expected)
