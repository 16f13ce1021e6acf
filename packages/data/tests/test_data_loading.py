"""Bad clips in a loader: replaced by rule, told once, counted, and too many stop the run."""

import itertools
import json
import warnings
from pathlib import Path

import pytest
import torch
from kinema_core import Clip, ClipInfo
from torch.utils.data import DataLoader

from kinema_data import (
    BadClip,
    Batch,
    Draw,
    ManifestDataset,
    ReplacingDataset,
    Skip,
    SkipLog,
    TokenBudgetSampler,
    collate,
    write_video,
)


def count_tokens(info: ClipInfo) -> int:
    return info.frames * info.height * info.width // 256


class Numbers:
    """Clips that are their index; those in `bad` cannot be read. Sizes alternate between two."""

    def __init__(self, num: int, bad: set[int]) -> None:
        self.num, self.bad = num, bad

    def __len__(self) -> int:
        return self.num

    def info(self, index: int) -> ClipInfo:
        return ClipInfo(f"n{index}", 1 + 4 * (index % 2), 16, 16, 8.0, "x")

    def __getitem__(self, index: int) -> int:
        if index in self.bad:
            raise BadClip("corrupt", f"n{index}.mp4", "is bad")
        return int(index)


def replacing(num: int, bad: set[int], **options: object) -> ReplacingDataset:
    return ReplacingDataset(
        Numbers(num, bad), TokenBudgetSampler.of(Numbers(num, bad), count_tokens, budget=40, **options)
    )


def test_replaced_by_rule_and_size() -> None:
    data = replacing(40, {4, 7})
    clips = []
    for slot in range(200):
        clip, skips = data[Draw(4, 0, 3, slot)]
        assert clip % 2 == 0 and clip != 4 and [skip.id for skip in skips] == ["n4"]
        assert data[Draw(4, 0, 3, slot)][0] == clip == replacing(40, {4, 7})[Draw(4, 0, 3, slot)][0]
        clips.append(clip)
    assert len(set(clips)) == 19, "any of the same size"
    others = [
        [replacing(40, {4}, seed=1)[Draw(4, 0, 3, slot)][0] for slot in range(50)],
        [data[Draw(4, 1, 3, slot)][0] for slot in range(50)],
        [data[Draw(4, 0, 4, slot)][0] for slot in range(50)],
    ]
    assert all(other != clips[:50] for other in others)
    assert data[Draw(5)] == (5, ()) and data[5] == (5, ())


def test_gives_up_after_four_replacements() -> None:
    bad = set(range(0, 40, 2))
    with pytest.raises(BadClip):
        replacing(40, bad)[Draw(4)]
    assert len(replacing(6, {0, 2})[Draw(0)][1]) in (1, 2)
    # Nothing else of the size: one with fewer tokens stands in.
    assert replacing(3, {1})[Draw(1)][0] in (0, 2)
    with pytest.raises(BadClip):
        replacing(1, {0})[Draw(0)]


def manifest(folder: Path) -> ManifestDataset:
    lines = []
    for i in range(12):
        frames = torch.full((1 + 4 * (i % 2), 16, 16, 3), 10 * i, dtype=torch.uint8)
        write_video(folder / f"{i}.mp4", frames, 8)
        size = {"frames": len(frames), "height": 16, "width": 16, "frame_rate": 8}
        lines.append({"id": f"n{i}", "path": f"{i}.mp4", "caption": f"clip {i}"} | size)
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "5.mp4").unlink()
    (folder / "8.mp4").write_bytes((folder / "8.mp4").read_bytes()[:300])
    return ManifestDataset(str(folder))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on(tmp_path: Path, workers: int) -> None:
    dataset = manifest(tmp_path)
    sampler = TokenBudgetSampler.of(dataset, count_tokens, budget=12)
    data = ReplacingDataset(dataset, sampler)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
    skips = SkipLog()
    seen = []
    with pytest.warns(UserWarning) as caught:
        for batch in itertools.islice(loader, 12):
            clips = skips.take(batch)
            assert all(isinstance(clip, Clip) for clip in clips)
            seen.append([clip.id for clip in clips])
            sampler.advance()
    messages = [str(w.message) for w in caught if "skipped clip" in str(w.message)]
    assert len(messages) == 2 and set(skips.skipped) == {"n5", "n8"} and skips.count > 2
    assert {skip.code for skip in skips.skipped.values()} == {"missing", "no_video"}
    # Two ranks see the same clips, replacements included.
    ranks = [TokenBudgetSampler.of(dataset, count_tokens, budget=20, rank=rank, world=2) for rank in (0, 1)]
    alone = TokenBudgetSampler.of(dataset, count_tokens, budget=20)
    for whole, *parts in itertools.islice(zip(alone, *ranks, strict=False), 6):
        expected = sorted(data[draw][0].id for draw in whole)
        assert sorted(data[draw][0].id for part in parts for draw in part) == expected


def batch(drawn: int, bad: list[int]) -> Batch:
    return Batch([None] * drawn, tuple(Skip(f"n{i}", "corrupt", f"{i} is bad") for i in bad))


def test_too_many_bad_clips_stop() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log = SkipLog()
        for _ in range(50):
            log.take(batch(20, [1, 2]))  # the same two of a small set, again and again
        assert (log.count, log.drawn, len(log.skipped)) == (100, 1000, 2)
        log.take(batch(20, list(range(10))))
        with pytest.raises(RuntimeError, match="11 bad clips among 1040 drawn, more than 1% and 10: 1 is bad"):
            log.take(batch(20, [10]))
        log = SkipLog()
        log.take(batch(2000, list(range(20))))
        with pytest.raises(RuntimeError):
            log.take(batch(10, [20]))
