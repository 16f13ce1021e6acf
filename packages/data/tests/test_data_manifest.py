"""The manifest dataset: its contract, what it refuses, what it probes."""

import json
import os
from pathlib import Path

import fsspec
import pytest
import torch
from kinema_core.testing import DatasetContract

from kinema_data import BadClip, ManifestDataset, write_image, write_video


def moving(num_frames: int = 9, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """Frames (T, H, W, 3) uint8, each of another brightness."""
    frames = torch.full((num_frames, height, width, 3), 20 + seed, dtype=torch.uint8)
    for t in range(num_frames):
        frames[t, : height // 2] = 40 + 10 * t
    return frames


def make(folder: Path, lines: list[dict] | None = None) -> Path:
    """Two videos and an image with a manifest that states no sizes."""
    write_video(folder / "v/a.mp4", moving(9), 8)
    write_video(folder / "v/b.mp4", moving(17, 48, 33), 12)
    write_image(folder / "c.png", moving(1, 20, 30)[0])
    lines = lines or [
        {"id": "a", "path": "v/a.mp4", "caption": "a one", "split": "train", "meta": {"n": [1, 2]}},
        {"id": "b", "path": "v/b.mp4", "captions": {"short": "b", "long": "b at length"}, "split": "train"},
        {"id": "c", "path": "c.png", "caption": "c", "split": "test"},
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


class TestContract(DatasetContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = make(tmp_path)

    def make(self) -> ManifestDataset:
        return ManifestDataset(str(self.folder))


def test_reads_what_was_written(tmp_path: Path) -> None:
    dataset = ManifestDataset(str(make(tmp_path)))
    assert [dataset.info(i).frames for i in range(3)] == [9, 17, 1]
    assert (dataset.info(1).height, dataset.info(1).width, dataset.info(1).frame_rate) == (48, 33, 12.0)
    clip = dataset[0]
    assert clip.captions == {"caption": "a one"} and clip.meta == {"n": [1, 2]}
    expected = moving(9).float().movedim(-1, 0) / 127.5 - 1
    assert (clip.video - expected).abs().max() < 4 / 127.5
    assert set(dataset[1].captions) == {"short", "long"}
    assert ManifestDataset(str(tmp_path), split="test").info(0).id == "c"
    with pytest.raises(ValueError, match="split 'dev'; there are test, train"):
        ManifestDataset(str(tmp_path), split="dev")


def test_caption_kind(tmp_path: Path) -> None:
    make(tmp_path, [{"path": "v/b.mp4", "captions": {"short": "s", "long": "l"}}])
    dataset = ManifestDataset(str(tmp_path), caption="long")
    assert dataset.info(0).caption == "l" and dataset[0].captions == {"long": "l"} and dataset[0].id == "v/b.mp4"
    with pytest.raises(ValueError, match="no 'medium' caption, only short, long"):
        ManifestDataset(str(tmp_path), caption="medium")


def test_probed_sizes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ManifestDataset(str(make(tmp_path)))
    monkeypatch.setattr("kinema_data.manifest.probe", None)  # a second probe would fail
    again = ManifestDataset(str(tmp_path))
    assert [again.info(i) for i in range(3)] == [first.info(i) for i in range(3)]
    (tmp_path / "manifest.sizes.json").write_text("{")
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="damaged"):
        assert ManifestDataset(str(tmp_path)).info(1) == first.info(1)


def test_windows_stride_and_shrinking(tmp_path: Path) -> None:
    make(tmp_path, [{"id": "b", "path": "v/b.mp4", "caption": "b"}])
    whole = ManifestDataset(str(tmp_path))[0].video
    parts = ManifestDataset(str(tmp_path), max_frames=6, frame_stride=4)
    assert [parts.info(i).id for i in range(len(parts))] == ["b#0", "b#1"]
    assert torch.equal(parts[0].video, whole[:, :5]) and torch.equal(parts[1].video, whole[:, 6:11])
    assert ManifestDataset(str(tmp_path), frame_stride=5).info(0).frames == 16
    small = ManifestDataset(str(tmp_path), max_pixels=32 * 32)
    assert small[0].video.shape[2:] == (small.info(0).height, small.info(0).width) == (32, 16)


def test_parquet_and_remote(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    make(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    columns = {key: None for row in rows for key in row}
    memory = fsspec.filesystem("memory")
    for name in ("v/a.mp4", "v/b.mp4", "c.png"):
        memory.pipe_file(f"/set/{name}", (tmp_path / name).read_bytes())
    with memory.open("/set/manifest.parquet", "wb") as file:
        parquet.write_table(pa.Table.from_pylist([columns | row for row in rows]), file)
    remote, local = ManifestDataset("memory://set"), ManifestDataset(str(tmp_path))
    for i in range(3):
        assert remote.info(i) == local.info(i)
        assert torch.equal(remote[i].video, local[i].video) and remote[i].captions == local[i].captions
    assert memory.exists("/set/manifest.sizes.json")
    memory.rm("/set/v/a.mp4")
    with pytest.raises(BadClip) as error:
        remote[0]
    assert error.value.code == "missing"


GOOD = {"id": "a", "path": "v/a.mp4", "caption": "a"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is no JSON"),
        ("[" * 100_000, "line 2: is no JSON"),
        ("3", "is int, not an object"),
        (GOOD, "id 'a' is that of line 1"),
        ({"id": "x", "caption": "x"}, "has no path"),
        ({"path": "x.mp4"}, "has no caption"),
        ({"path": "x.mp4", "caption": "  "}, "not empty"),
        ({"path": "x.mp4", "captions": {}}, "captions has to be"),
        ({"path": "x.mp4", "captions": {"short": 3}}, "caption short has to be a text"),
        ({"path": "x.mp4", "caption": "x", "frames": 0}, "frames has to be"),
        ({"path": "x.mp4", "caption": "x", "height": True}, "height has to be"),
        ({"path": "x.mp4", "caption": "x", "frame_rate": float("nan")}, "frame_rate has to be"),
        ({"path": "x.mp4", "caption": "x", "meta": []}, "meta has to be"),
        ({"path": "x.mp4", "caption": "x", "id": 4}, "id has to be"),
        *[
            ({"path": path, "caption": "x"}, "path")
            for path in (
                "../x.mp4",
                "v/../../x.mp4",
                "/etc/passwd",
                "~/x",
                "file:///etc/passwd",
                "pipe:ls",
                "concat:a|b",
                "http://h/x",
                "a::b",
                "..\\x",
                "a\0b",
            )
        ],
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: object, message: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "manifest.jsonl").write_text(json.dumps(GOOD) + "\n" + text + "\n")
    with pytest.raises(ValueError, match="1 wrong lines") as error:
        ManifestDataset(str(tmp_path))
    assert message in str(error.value) and "line 2:" in str(error.value)


def test_at_most_twenty_errors_are_shown(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text("no\n" * 50)
    with pytest.raises(ValueError, match="50 wrong lines") as error:
        ManifestDataset(str(tmp_path))
    assert str(error.value).count("is no JSON") == 20 and "and 30 more" in str(error.value)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no manifest at"):
        ManifestDataset(str(tmp_path))
    (tmp_path / "manifest.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no clips"):
        ManifestDataset(str(tmp_path))


def test_bad_files(tmp_path: Path) -> None:
    make(tmp_path)
    size = {"frames": 9, "height": 32, "width": 32, "frame_rate": 8}
    lines = [
        GOOD | size,
        {"id": "gone", "path": "gone.mp4", "caption": "x"} | size,
        {"id": "other", "path": "v/b.mp4", "caption": "x"} | size,
        {"id": "short", "path": "v/a.mp4", "caption": "x"} | size | {"frames": 12},
        {"id": "unknown", "path": "nothing.mp4", "caption": "x"},
    ]
    make(tmp_path, lines)
    with pytest.warns(UserWarning, match="left out 1 clips"):
        dataset = ManifestDataset(str(tmp_path))
    assert len(dataset) == 4 and [error.code for error in dataset.rejected] == ["missing"]
    dataset[0]
    for index, code in ((1, "missing"), (2, "size_mismatch"), (3, "truncated")):
        with pytest.raises(BadClip) as error:
            dataset[index]
        assert error.value.code == code


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    make(tmp_path).chmod(0o500)
    with pytest.warns(UserWarning, match="cannot keep"):
        assert len(ManifestDataset(str(tmp_path))) == 3
    tmp_path.chmod(0o700)
