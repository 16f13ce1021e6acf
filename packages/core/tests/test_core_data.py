"""Ragged batches, text features and conditioning against closed forms and their inverses."""

import math

import pytest
import torch
from torch.utils import _pytree as pytree

from kinema_core import UNIT_CELL_RATE, Clip, Conditioning, Ragged, TextFeatures, seeded_normal

GRIDS = ((3, 2, 4), (1, 3, 3), (2, 1, 5))


def latents(channels: int = 2) -> list[torch.Tensor]:
    return [seeded_normal((channels, *grid), i) for i, grid in enumerate(GRIDS)]


def test_clips_is_the_inverse_of_from_clips():
    clips = latents()
    ragged = Ragged.from_clips(clips)
    assert len(ragged) == 3 and ragged.grids == GRIDS and ragged.lengths == [24, 9, 10]
    assert ragged.values.shape == (43, 2)
    for got, expected in zip(ragged.clips(), clips, strict=True):
        assert torch.equal(got, expected)
    again = Ragged.from_clips(ragged.clips())
    assert torch.equal(again.values, ragged.values) and torch.equal(again.positions, ragged.positions)


def test_cells_are_in_the_order_time_row_column():
    t, h, w = 3, 2, 4
    clip = torch.arange(t * h * w, dtype=torch.float32).reshape(1, t, h, w)
    ragged = Ragged.from_clips([clip])
    assert torch.equal(ragged.values[:, 0], torch.arange(24.0))
    for cell, (time, row, column) in enumerate(ragged.positions.long().tolist()):
        assert clip[0, time, row, column] == cell


def test_a_unit_of_time_is_one_latent_frame_at_24_fps_and_stride_4():
    # 24 fps / 4 = 6 latent frames a second: unit steps. 8 fps / 4 = 2 a second: each lasts three units.
    ragged = Ragged.from_clips(latents(), cell_rates=[24 / 4, 8 / 4, 8 / 4])
    first, image, slow = (part[:, 0].unique().tolist() for part in ragged.positions.split(ragged.lengths))
    assert first == [0, 1, 2] and image == [0] and slow == [0, 3]
    assert torch.equal(
        Ragged.from_clips(latents()).positions, Ragged.from_clips(latents(), [UNIT_CELL_RATE] * 3).positions
    )


def test_rows_and_columns_are_in_cells_whatever_the_rate():
    ragged = Ragged.from_clips(latents(), cell_rates=[1.0, 2.0, 3.0])
    for grid, part in zip(GRIDS, ragged.positions.split(ragged.lengths), strict=True):
        assert part[:, 1].max() == grid[1] - 1 and part[:, 2].max() == grid[2] - 1


def test_no_clips_and_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="at least one clip"):
        Ragged.from_clips([])
    with pytest.raises(ValueError):
        Ragged.from_clips(latents(), cell_rates=[6.0])


def test_per_cell_repeats_each_clips_value():
    ragged = Ragged.from_clips(latents())
    cells = ragged.per_cell(torch.tensor([1.0, 2.0, 3.0]))
    assert cells.tolist() == [1.0] * 24 + [2.0] * 9 + [3.0] * 10
    assert ragged.per_cell(torch.eye(3))[24].tolist() == [0, 1, 0]


def test_mean_per_clip_is_the_inverse_of_per_cell():
    ragged = Ragged.from_clips(latents())
    values = torch.tensor([1.0, -2.0, 3.5])
    every = torch.ones(43, dtype=torch.bool)
    assert torch.equal(ragged.mean_per_clip(ragged.per_cell(values), every), values)


def test_mean_per_clip_leaves_out_by_selection_even_infinite_values():
    ragged = Ragged.from_clips(latents())
    where = torch.arange(43) % 3 != 0
    where[24:33] = False
    values = torch.where(where, torch.arange(43.0), math.inf).requires_grad_()
    means = ragged.mean_per_clip(values, where)
    chosen = [[i for i in range(24) if i % 3], [], [i for i in range(33, 43) if i % 3]]
    assert means.tolist() == pytest.approx([sum(cells) / max(len(cells), 1) for cells in chosen])
    means.sum().backward()
    share = ragged.per_cell(torch.tensor([1 / max(len(cells), 1) for cells in chosen]))
    assert torch.equal(values.grad, torch.where(where, share, 0))


def test_cat_joins_as_if_packed_at_once_and_replace_changes_values_only():
    clips, rates, period = latents(), [6.0, 3.0, 2.0], (3.0, None, 8.0)
    whole = Ragged.from_clips(clips, rates, period)
    parts = [Ragged.from_clips(clips[s], rates[s], period[s]) for s in (slice(0, 1), slice(1, 3))]
    joined = Ragged.cat(iter(parts))
    assert torch.equal(joined.values, whole.values) and torch.equal(joined.positions, whole.positions)
    assert joined.grids == whole.grids and joined.period == whole.period == period
    wide = whole.replace(torch.zeros(43, 7))
    assert wide.positions is whole.positions and wide.grids == GRIDS and wide.clips()[0].shape == (7, 3, 2, 4)


def test_period_is_none_for_each_clip_by_default():
    assert Ragged.from_clips(latents()).period == (None, None, None)


def test_to_changes_values_but_keeps_positions_in_float32():
    ragged = Ragged.from_clips(latents()).to(dtype=torch.bfloat16)
    assert ragged.values.dtype == torch.bfloat16 and ragged.positions.dtype == torch.float32
    assert ragged.to("meta").values.device.type == ragged.to("meta").positions.device.type == "meta"


def test_to_moves_nested_tensors_and_leaves_masks_and_text():
    text = TextFeatures(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), None)
    cond = Conditioning((text,), {"actions": torch.zeros(5, 2)}, {"camera": torch.zeros(2, 3)}).to(dtype=torch.float64)
    assert cond.text[0].tokens.dtype == cond.cells["actions"].dtype == cond.clips["camera"].dtype == torch.float64
    assert cond.text[0].mask.dtype == torch.bool and cond.text[0].pooled is None
    clip = Clip("a", torch.zeros(3, 1, 2, 2), 8.0, {"short": "x"}, {"n": 3, "track": torch.zeros(2)}).to(
        dtype=torch.float64
    )
    assert clip.meta["track"].dtype == torch.float64 and clip.meta["n"] == 3 and clip.captions == {"short": "x"}


@pytest.mark.parametrize("kind", ["ragged", "conditioning", "clip"])
def test_pytree_round_trip(kind):
    data = {
        "ragged": Ragged.from_clips(latents(), period=(3.0, None, None)),
        "conditioning": Conditioning(
            (TextFeatures(torch.ones(1, 2, 3), torch.ones(1, 2) > 0),), {"a": torch.ones(4, 1)}
        ),
        "clip": Clip("a", torch.ones(3, 1, 2, 2), 8.0, {"short": "x"}, {"track": torch.ones(2)}),
    }[kind]
    leaves, spec = pytree.tree_flatten(data)
    back = pytree.tree_unflatten(leaves, spec)
    assert type(back) is type(data)
    assert all(a is b for a, b in zip(leaves, pytree.tree_leaves(back), strict=True))
    doubled = pytree.tree_map_only(torch.Tensor, lambda x: x + x, data)
    for one, two in zip(leaves, pytree.tree_leaves(doubled), strict=True):
        assert torch.equal(two, one + one) if isinstance(one, torch.Tensor) else two == one


def text(batch: int, length: int, pooled: int | None = None) -> TextFeatures:
    mask = torch.arange(length)[None] < torch.arange(1, batch + 1)[:, None].clamp(max=length)
    return TextFeatures(
        1 + seeded_normal((batch, length, 4), batch).abs(), mask, None if pooled is None else torch.ones(batch, pooled)
    )


def test_split_is_the_inverse_of_cat():
    grids = [(2, 3, 4), (1, 2, 2), (3, 1, 1)]
    x = Ragged.from_clips([torch.randn(5, *grid) for grid in grids], [6.0, 3.0, 2.0], [None, 8.0, None])
    again = Ragged.cat(x.split())
    assert torch.equal(again.values, x.values) and torch.equal(again.positions, x.positions)
    assert again.grids == x.grids and again.period == x.period
    cond = Conditioning((text(3, 4, pooled=2),), {"camera": torch.randn(31, 2)}, {"speed": torch.randn(3, 1)})
    joined = Conditioning.cat(cond.split(x.lengths))
    assert torch.equal(joined.text[0].tokens, cond.text[0].tokens) and joined.text[0].pooled is not None
    assert torch.equal(joined.cells["camera"], cond.cells["camera"])
    assert torch.equal(joined.clips["speed"], cond.clips["speed"])


def test_text_cat_pads_with_masked_tokens():
    one, other = text(2, 3, pooled=5), text(3, 6, pooled=5)
    both = TextFeatures.cat([one, other])
    assert both.tokens.shape == (5, 6, 4) and both.pooled.shape == (5, 5)
    assert torch.equal(both.tokens[:2, :3], one.tokens) and torch.equal(both.tokens[2:], other.tokens)
    assert (both.tokens[:2, 3:] == 0).all() and not both.mask[:2, 3:].any()
    assert torch.equal(both.mask[:2, :3], one.mask) and torch.equal(both.mask[2:], other.mask)
    assert both.mask.dtype == torch.bool


def test_text_cat_refuses_a_mix_of_pooled_and_not():
    with pytest.raises(ValueError, match="with and without pooled"):
        TextFeatures.cat([text(1, 2, pooled=5), text(1, 2)])
    assert TextFeatures.cat([text(1, 2), text(2, 2)]).pooled is None


def test_text_index_selects_captions():
    features = text(3, 4, pooled=2)
    picked = features[[2, 0]]
    assert torch.equal(picked.tokens, features.tokens[[2, 0]]) and torch.equal(picked.mask, features.mask[[2, 0]])
    assert picked.pooled.shape == (2, 2) and text(3, 4)[1:].pooled is None


def test_conditioning_cat_joins_every_stream_and_name():
    def part(batch: int, cells: int) -> Conditioning:
        streams = (text(batch, batch + 1), text(batch, 2, pooled=3))
        return Conditioning(
            streams, {"actions": torch.full((cells, 2), batch)}, {"camera": torch.full((batch, 1), batch)}
        )

    both = Conditioning.cat([part(1, 4), part(3, 9)])
    assert [f.tokens.shape for f in both.text] == [(4, 4, 4), (4, 2, 4)]
    assert both.text[0].pooled is None and both.text[1].pooled.shape == (4, 3)
    assert both.cells["actions"].tolist() == [[1, 1]] * 4 + [[3, 3]] * 9
    assert both.clips["camera"].flatten().tolist() == [1, 3, 3, 3]


def test_conditioning_cat_refuses_unequal_streams_and_names():
    with pytest.raises(ValueError):
        Conditioning.cat([Conditioning((text(1, 2),)), Conditioning()])
    named = Conditioning(cells={"actions": torch.ones(1, 1)})
    for parts in ([named, Conditioning()], [Conditioning(), named]):
        with pytest.raises(ValueError, match="different names.*actions"):
            Conditioning.cat(parts)
