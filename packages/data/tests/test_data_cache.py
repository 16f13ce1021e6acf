"""The latent cache: what goes in comes out, whole or not at all, and never another encoder's."""

import itertools
import os
import pickle
from pathlib import Path

import pytest
import torch
from kinema_core import Clip, TextFeatures, seeded_normal
from torch.utils.data import DataLoader

from kinema_data import (
    BadClip,
    CachedLatents,
    LatentWriter,
    ReplacingDataset,
    TokenBudgetSampler,
    collate,
)

MADE_BY = {"vae": {"name": "causal3d", "weights": "abc"}, "text": [{"name": "clip"}], "data": "d1"}
GRIDS = [(3, 8, 8), (1, 12, 12), (5, 8, 12)]


def clips() -> list[tuple[Clip, torch.Tensor]]:
    return [
        (
            Clip(f"c{i}", torch.zeros(3, 1 + 4 * (t - 1), 4 * h, 4 * w), 8.0, {"short": f"s{i}"}, {"n": i}),
            seeded_normal((6, t, h, w), i),
        )
        for i, (t, h, w) in enumerate(GRIDS * 4)
    ]


def features(captions: list[str], stream: int = 0, pooled: bool = True) -> TextFeatures:
    lengths = torch.tensor([1 + len(caption) for caption in captions])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    tokens = torch.stack([seeded_normal((20, 5), caption, stream)[: mask.shape[1]] for caption in captions])
    return TextFeatures(tokens, mask, torch.stack([seeded_normal((4,), c) for c in captions]) if pooled else None)


def write(folder: Path, **options: object) -> None:
    with LatentWriter(folder, **{"made_by": MADE_BY, "dtype": "float32", "shard_bytes": 8000, **options}) as writer:
        for clip, latent in clips():
            writer.add(clip, latent, cell_rate=2.0)
        writer.add_text(["", "red", "a blue one"], (features(["", "red", "a blue one"]), features(["", "re", "b"], 1)))
        writer.add_text(["red"], (features(["other"]), features(["x"])))


def test_round_trip(tmp_path: Path) -> None:
    write(tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("latents-*"))) > 2
    for cached in (CachedLatents(tmp_path / "cache"), pickle.loads(pickle.dumps(CachedLatents(tmp_path / "cache")))):
        assert len(cached) == 12
        for i, (clip, latent) in enumerate(clips()):
            item, info = cached[i], cached.info(i)
            assert torch.equal(item.latent, latent) and cached.grid(i) == tuple(latent.shape[1:])
            assert (item.id, item.captions, item.meta) == (clip.id, clip.captions, clip.meta)
            assert (item.cell_rate, item.frame_rate) == (2.0, 8.0)
            assert (info.frames, info.height, info.width) == item.size == tuple(clip.video.shape[1:])
            assert (info.id, info.caption) == (clip.id, clip.captions["short"])
        assert torch.equal(cached[-1].latent, clips()[-1][1])
        with pytest.raises(IndexError):
            cached[12]


def test_text_features(tmp_path: Path) -> None:
    write(tmp_path / "cache")
    cached = CachedLatents(tmp_path / "cache")
    found, expected = cached.text(["red", "", "red"]), features(["red", "", "red"])
    assert len(found) == 2 and torch.equal(found[0].mask, expected.mask)
    assert torch.equal(found[0].tokens[expected.mask], expected.tokens[expected.mask])
    assert torch.equal(found[0].pooled, expected.pooled)
    assert cached.has_text("red") and not cached.has_text("green")
    with pytest.raises(KeyError, match="'green'"):
        cached.text(["red", "green"])


def test_half_precision(tmp_path: Path) -> None:
    write(tmp_path / "cache", dtype="float16")
    for (_, latent), item in zip(clips(), CachedLatents(tmp_path / "cache"), strict=False):
        assert item.latent.dtype == torch.float32
        assert 0 < (item.latent - latent).abs().max() <= 2**-11 * latent.abs().max()
    with pytest.raises(ValueError, match="'big'.*not finite"), LatentWriter(tmp_path / "b", made_by={}) as writer:
        writer.add(Clip("big", torch.zeros(3, 1, 8, 8)), torch.full((6, 1, 2, 2), 7e4), cell_rate=6)
    assert os.listdir(tmp_path) == ["cache"]


def test_made_by_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "cache")
    CachedLatents(tmp_path / "cache", expect=MADE_BY)
    CachedLatents(tmp_path / "cache", expect={"vae": {"weights": "abc"}})
    with pytest.raises(ValueError, match='vae.weights is "abc", not "xyz"; data is "d1", not "d2"'):
        CachedLatents(tmp_path / "cache", expect={"vae": {"weights": "xyz"}, "data": "d2"})
    with pytest.raises(FileNotFoundError, match="no cache of latents"):
        CachedLatents(tmp_path)


def test_whole_or_nothing(tmp_path: Path) -> None:
    write(tmp_path / "cache")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write(tmp_path / "cache")
    with (
        pytest.raises(RuntimeError, match="stop"),
        LatentWriter(tmp_path / "cache", made_by={}, overwrite=True) as writer,
    ):
        writer.add(*clips()[0], cell_rate=2.0)
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="at least one"), LatentWriter(tmp_path / "none", made_by={}):
        pass
    with pytest.raises(ValueError, match="'c0' is in the cache"), LatentWriter(tmp_path / "two", made_by={}) as writer:
        writer.add(*clips()[0], cell_rate=2.0)
        writer.add(*clips()[0], cell_rate=2.0)
    assert os.listdir(tmp_path) == ["cache"] and len(CachedLatents(tmp_path / "cache", expect=MADE_BY)) == 12
    write(tmp_path / "cache", made_by={"new": 1}, overwrite=True)
    assert os.listdir(tmp_path) == ["cache"] and CachedLatents(tmp_path / "cache").made_by == {"new": 1}


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damaged_shard(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "cache")
    path = tmp_path / "cache" / "latents-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-100])
    cached = CachedLatents(tmp_path / "cache")
    assert torch.equal(cached[11].latent, clips()[11][1]), "other shards are unharmed"
    with pytest.raises(BadClip) as error:
        cached[0]
    assert error.value.code == ("missing" if damage == "delete" else "corrupt")


@pytest.mark.parametrize("workers", [0, 2])
def test_feeds_a_loader(tmp_path: Path, workers: int) -> None:
    write(tmp_path / "cache")
    cached = CachedLatents(tmp_path / "cache")
    sampler = TokenBudgetSampler.of(cached, lambda info: info.frames * info.height, budget=1000)
    data = ReplacingDataset(cached, sampler)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
    expected = [[cached[i].id for i in draws] for draws in itertools.islice(sampler, 5)]
    assert [[clip.id for clip in batch.clips] for batch in itertools.islice(loader, 5)] == expected
