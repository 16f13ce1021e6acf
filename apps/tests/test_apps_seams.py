"""Seams: what the VAE loses of a given frame comes back beside it, but only where the picture stands still."""

import torch
from kinema_core import Clip

from kinema.continuing import extend
from kinema.pipeline import Pipeline
from kinema.seams import REACH, SHARE, mended


def test_the_loss_fades_where_nothing_moves_and_is_left_out_where_something_else_is_seen():
    coded = torch.zeros(3, 1, 4, 4)
    given = coded + 0.1
    new = coded.repeat(1, REACH + 3, 1, 1)
    new[:, 2:, 0] = 1.0  # the upper row is another colour from the third frame on
    made = mended(new, given, coded)
    for k in range(REACH):
        torch.testing.assert_close(made[:, k, 1:], torch.full((3, 3, 4), 0.1 * SHARE ** (k + 1)))
    torch.testing.assert_close(made[:, 1, 0], torch.full((3, 4), 0.1 * SHARE**2))
    torch.testing.assert_close(made[:, 2:, 0], new[:, 2:, 0], atol=1e-6, rtol=0)
    assert torch.equal(made[:, REACH:], new[:, REACH:])
    # Half of the loss where a value has changed by MOVED sqrt(ln 2) = .1665.
    moved = mended(coded + 0.1665, given, coded) - 0.1665
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05 * SHARE), rtol=2e-3, atol=0)
    assert mended(coded + 1, given + 9, coded).max() <= 1


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
    before, after = asked  # 6 of 9 new frames before 8 given ones; 8 new frames, of which 6 stay, after 5 given ones
    torch.testing.assert_close(longer[:, 15:], mended(after[:, 5:11], video[:, -1:], after[:, 4:5]))
    back = mended(before[:, 3:9].flip(1), video[:, :1], before[:, 9:10]).flip(1)
    torch.testing.assert_close(longer[:, :6], back)
    assert not torch.equal(longer[:, 14 + 1], after[:, 5])
