"""Random keep masks of training: their shares, kinds and bounds."""

import pytest
import torch
from kinema_core import Ragged

from kinema.tasks import MASKS, training_masks

VIDEO, IMAGE = (5, 4, 6), (1, 4, 6)


def masks(count=400, *, grid=VIDEO, patch=(1, 2, 2), **options):
    x = Ragged.from_clips([torch.zeros(2, *grid)] * count)
    options = {"share": 1.0, "key": (0, 0), **options}
    whole = training_masks(x, [f"clip {i}" for i in range(count)], patch, **options)
    return whole.unflatten(0, (count, *grid))


def only(kind):
    return {name: float(name == kind) for name in MASKS}


def whole_frames(mask):
    frames = mask.flatten(2)
    assert (frames.all(2) == frames.any(2)).all()
    return frames.all(2)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_clips_that_keep_anything(share):
    # "scattered" and "box" may come out empty, the first frame never does.
    kept = masks(share=share, weights=only("first")).flatten(1).any(1).float().mean()
    assert abs(kept - share) < 4 * (share * (1 - share) / 400) ** 0.5 + 1e-9


def test_weights_choose_the_kind():
    assert (whole_frames(masks(weights=only("first"))) == torch.tensor([1, 0, 0, 0, 0]).bool()).all()
    heads, tails = (whole_frames(masks(weights=only(kind))).int() for kind in ("head", "tail"))
    assert (heads.diff(dim=1) <= 0).all() and (tails.diff(dim=1) >= 0).all()
    ends = whole_frames(masks(weights=only("ends")))
    assert ends[:, 0].all() and ends[:, -1].all() and not ends[:, 2].any()
    lengths = torch.stack([ends[:, :2].sum(1), ends[:, -2:].sum(1)], 1)
    assert len(lengths.unique(dim=0)) == 4, "one or two latents at each end"
    boxes = masks(weights=only("box"))
    assert (boxes == boxes[:, :1]).all()
    # Twenty times as often: 20 of 25 draws.
    first = masks(weights={"first": 20}).flatten(2).all(2).int().tolist().count([1, 0, 0, 0, 0]) / 400
    assert 0.75 < first < 0.9


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("grid", [VIDEO, (2, 3, 5), IMAGE])
def test_something_is_always_left_to_learn(kind, grid):
    kept = masks(grid=grid, patch=(1, 1, 1), weights=only(kind)).flatten(1)
    assert not kept.all(1).any()


def test_a_patch_is_kept_whole_or_not_at_all():
    patches = masks(patch=(1, 2, 3)).unfold(2, 2, 2).unfold(3, 3, 3).flatten(4)
    assert (patches.all(4) == patches.any(4)).all() and patches.any()


def test_a_mask_depends_on_key_and_clip_alone():
    x = Ragged.from_clips([torch.zeros(1, *VIDEO), torch.zeros(1, *IMAGE)])
    pair = training_masks(x, ["a", "b"], (1, 2, 2), share=1.0, key=(3, 7))
    back = training_masks(Ragged.from_clips(x.clips()[::-1]), ["b", "a"], (1, 2, 2), share=1.0, key=(3, 7))
    assert torch.equal(pair[: x.lengths[0]], back[x.lengths[1] :])
    assert not torch.equal(masks(key=(0, 0)), masks(key=(0, 1)))


@pytest.mark.parametrize("weights", [{"last": 1.0}, {"first": -1.0}, {name: 0.0 for name in MASKS}])
def test_weights_that_cannot_be(weights):
    with pytest.raises(ValueError, match="any of box, first"):
        masks(1, weights=weights)
