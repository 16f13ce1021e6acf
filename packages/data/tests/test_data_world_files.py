"""The made world on disk: files, manifest, ground truth; the same for any number of workers."""

import json

import pytest
import torch

from kinema_data import read_clip
from kinema_data.worlds import World, draw_scene, make_world, render_frames


def lines(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "w", num_clips=40, seed=5)


def test_manifest_describes_the_files(folder):
    entries = lines(folder)
    assert len(entries) == 40 and {entry["split"] for entry in entries} == {"train", "choose", "report"}
    assert len(list((folder / "clips").iterdir())) == 40
    assert {entry["frames"] for entry in entries} >= {1, 9}
    for entry in entries:
        frames = read_clip(folder / entry["path"]).frames
        assert tuple(frames.shape) == (entry["frames"], entry["height"], entry["width"], 3)
        assert len(entry["meta"]["positions"]) == len(entry["meta"]["radii"]) == entry["frames"]
        assert set(entry["captions"]) == {"short", "long"}


def test_files_hold_the_scenes_with_little_loss(folder):
    for entry in lines(folder)[:20]:
        split, number = entry["id"].rsplit("-", 1)
        scene = draw_scene(World(), split, 5, int(number))
        drawn = render_frames([scene])[0].float()
        read = read_clip(folder / entry["path"])
        error = (read.frames.float() - drawn).square().mean()
        assert error == 0 if scene.frames == 1 else 10 * torch.log10(255**2 / error) > 38
        assert scene.frames == 1 or abs(read.frame_rate - scene.frame_rate) < 1e-3


def test_world_json_is_the_definition(folder):
    assert json.loads((folder / "world.json").read_text()) == json.loads(World().to_json())


def test_progress_and_shares(tmp_path):
    calls = []
    shares = {"train": 1, "report": 3}
    make_world(tmp_path / "w", num_clips=8, splits=shares, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (8, 8) and [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert [entry["split"] for entry in lines(tmp_path / "w")].count("report") == 6


def test_nothing_is_left_after_a_failure(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path / "w", num_clips=4, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clips": 0}, "at least 1"),
        ({"num_clips": 4, "splits": {"test": 1}}, "'test'; known: train"),
        ({"num_clips": 4, "splits": {"train": -1}}, "positive"),
        ({"num_clips": 4, "scale": 0}, "scale"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_world(tmp_path / "w", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        make_world(tmp_path, num_clips=4)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.slow
def test_two_processes_write_the_same_world(folder, tmp_path):
    again = make_world(tmp_path / "w", num_clips=40, seed=5, num_workers=2)
    assert (again / "manifest.jsonl").read_text() == (folder / "manifest.jsonl").read_text()
    for entry in lines(folder)[::8]:
        assert (again / entry["path"]).read_bytes() == (folder / entry["path"]).read_bytes()
