"""Seams: what the VAE loses of a given frame comes back beside it, but only where the picture stands still."""

import torch
from kinema_core import Clip

from kinema.continuing import extend
from kinema.pipeline import Pipeline
from kinema.seams import REACH, SHARE, mended


def test_the_loss_moves_along_and_fades():
    """Something moves by (1, -2) pixels a frame; what the coded frame lacks of the given one moves with it."""
    given = torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    coded = given * 0.5  # as by a VAE: paler
    new = torch.cat([coded.roll((k, -2 * k), (2, 3)) for k in range(1, REACH + 3)], dim=1)
    made = mended(new, given, coded)
    for k in range(4):
        here = (slice(None), k, slice(14, -14), slice(14, -14))  # far from what comes in over the border
        moved = given[:, 0].roll((k + 1, -2 * (k + 1)), (1, 2))
        torch.testing.assert_close(
            made[here], torch.lerp(new[:, k], moved, SHARE ** (k + 1))[here[0], here[2], here[3]]
        )
    assert torch.equal(made[:, REACH:], new[:, REACH:])
    assert mended(coded, given + 9, coded).max() <= 1


def test_nothing_is_added_where_something_else_is_seen():
    coded = torch.zeros(3, 1, 16, 16)
    new = coded.clone()
    new[:, :, :8] = 0.8  # has come into view in the upper half
    made = mended(new, coded + 0.1, coded)
    torch.testing.assert_close(made[:, :, :6], new[:, :, :6], atol=1e-6, rtol=0)
    torch.testing.assert_close(made[:, :, 12:], new[:, :, 12:] + 0.1 * SHARE)


def test_new_frames_are_mended_from_the_given_frame_on_their_side(pipeline, monkeypatch):
    video = torch.rand(3, 9, 16, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    asked: list[torch.Tensor] = []
    generate = Pipeline.generate

    def watched(self, requests, **options):
        made = generate(self, requests, **options)
        asked.extend(clip.video for clip in made)
        return made

    monkeypatch.setattr(Pipeline, "generate", watched)
    longer = extend(pipeline, Clip("c", video, 8.0), "", after=6, before=6).video
    before, after = asked[2:]  # drawn over; of both 6 frames stay, beside them is the given one
    torch.testing.assert_close(longer[:, 15:], mended(after[:, 7:13], video[:, -1:], after[:, 6:7]))
    back = mended(before[:, 1:7].flip(1), video[:, :1], before[:, 7:8]).flip(1)
    torch.testing.assert_close(longer[:, :6], back)
    assert not torch.equal(longer[:, 15], after[:, 7])
