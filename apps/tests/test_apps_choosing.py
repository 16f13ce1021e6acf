"""Choosing among candidates: an even passage is kept, not a jump and not a frozen frame."""

import pytest
import torch
from kinema_core import Clip

from kinema.choosing import most_even, unevenness
from kinema.continuing import connect, extend, loop


def ramp(values: list[float]) -> torch.Tensor:
    """(3, T, 4, 4): every frame of one value, so that the change between frames is the difference of the values."""
    return torch.tensor(values).view(1, -1, 1, 1).expand(3, -1, 4, 4)


BEFORE, AFTER = ramp([-0.2, -0.1, 0.0]), ramp([0.5, 0.6, 0.7])
EVEN, JUMP, FROZEN = ramp([0.1, 0.2, 0.3, 0.4]), ramp([0.3, 0.35, 0.4, 0.45]), ramp([0.0, 0.0, 0.0, 0.0])


def test_unevenness_is_the_largest_change_or_how_slow_the_rest_is():
    assert unevenness(EVEN, BEFORE, AFTER) == pytest.approx(1, rel=1e-4)
    assert unevenness(JUMP, BEFORE, AFTER[:, :0]) == pytest.approx(3, rel=1e-4)
    assert unevenness(ramp([0.02, 0.04]), BEFORE, AFTER[:, :0]) == pytest.approx(5, rel=1e-4)
    assert unevenness(FROZEN, BEFORE, AFTER[:, :0]) > 100
    assert unevenness(FROZEN, BEFORE[:, :0], AFTER) == pytest.approx(5, rel=1e-4), "the seam is the jump"
    assert most_even([FROZEN, JUMP, EVEN], BEFORE, AFTER) is EVEN
    # Beside a still video, or an image, the smallest change is the best.
    assert unevenness(FROZEN, ramp([0.0, 0.0]), AFTER[:, :0]) < unevenness(EVEN, ramp([0.0, 0.0]), AFTER[:, :0])
    assert unevenness(EVEN, ramp([0.0]), AFTER[:, :0]) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    "task",
    [
        lambda p, a, b, **k: extend(p, a, "", after=6, before=3, **k),
        lambda p, a, b, **k: loop(p, a, "", frames=8, **k),
        lambda p, a, b, **k: connect(p, a, b, "", frames=8, **k),
    ],
)
def test_the_most_even_of_the_candidates_is_kept_and_the_first_is_what_one_makes(pipeline, asked, monkeypatch, task):
    videos = torch.rand(2, 3, 9, 16, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, other = (Clip(f"c{i}", video, 8.0) for i, video in enumerate(videos))
    compared: list[tuple[list[torch.Tensor], torch.Tensor]] = []

    def watched(candidates, before, after):
        compared.append((list(candidates), most_even(candidates, before, after)))
        return compared[-1][1]

    monkeypatch.setattr("kinema.continuing.most_even", watched)
    task(pipeline, one, other)
    sides = len(asked) // 2  # each is made, and drawn over
    alone = [chosen for _, chosen in compared[:sides]]
    asked.clear()
    compared.clear()
    task(pipeline, one, other, candidates=3)
    assert len({request.id for request in asked}) == len(asked) == 4 * sides, "each has noise of its own"
    for first, (candidates, chosen), over in zip(alone, compared[:sides], asked[3 * sides :], strict=True):
        torch.testing.assert_close(candidates[0], first, atol=1e-4, rtol=0)
        pieces = over.given.unfold(1, chosen.shape[1], 1).unbind(1)
        kept = [c for c in candidates if any(torch.equal(c, piece.movedim(-1, 1)) for piece in pieces)]
        assert len(kept) == 1 and torch.equal(kept[0], chosen)
    with pytest.raises(ValueError, match="0 candidates; ask for at least one"):
        task(pipeline, one, other, candidates=0)
