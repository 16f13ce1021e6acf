"""A user's mistakes with data and models, through the command: one line, exit code 2, nothing half-written."""

import json
import os
from pathlib import Path

import pytest
from kinema.cli import main
from kinema.training.run import train_dit, train_vae
from kinema_data.worlds import make_world

SHORT = ["trainer.accelerator=cpu", "trainer.max_steps=2", "validation=null", "vae.widths=[8]", "run.out=made"]


@pytest.fixture
def kinema(capsys, monkeypatch):
    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["kinema", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, capsys.readouterr().err

    return run


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_world(tmp_path / "world", num_clips=24, seed=0, splits={"train": 1})


def refused(result: tuple[int, str], *parts: str) -> None:
    code, err = result
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("kinema: ") and "Traceback" not in err
    assert all(part in last for part in parts), last
    assert not Path("made").exists()


def test_no_manifest(kinema, world):
    refused(kinema("train", "vae", *SHORT, "data.path=nowhere"), "nowhere", "manifest")


def test_a_line_that_is_no_json_is_named_by_its_number(kinema, world):
    lines = (world / "manifest.jsonl").read_text().splitlines()
    (world / "manifest.jsonl").write_text("\n".join([*lines[:4], "{oops", *lines[5:]]))
    refused(kinema("train", "vae", *SHORT), "line 5")


def test_an_empty_caption(kinema, world):
    lines = [json.loads(line) for line in (world / "manifest.jsonl").read_text().splitlines()]
    lines[2]["captions"] = {"short": "  "}
    (world / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    refused(kinema("train", "vae", *SHORT), "line 3", "caption")


def test_missing_and_corrupt_files_are_skipped_told_and_counted(world, recwarn):
    files = sorted((world / "clips").glob("*.mp4"))
    files[0].unlink()
    files[1].write_bytes(b"\0" * 100)
    train_vae(None, [*SHORT, "batch_pixels=2000000", "run.id=skips"])
    told = [str(w.message) for w in recwarn if "skipped clip" in str(w.message)]
    assert {name.stem for name in files[:2]} == {line.split("'")[1] for line in told}
    events = [json.loads(line) for line in Path("runs/skips/metrics.jsonl").read_text().splitlines()]
    (count,) = [event["value"] for event in events if event.get("key") == "skipped_clips"]
    assert count == 2
    assert Path("made").exists()


def test_an_illegal_number_of_frames_names_the_nearest(kinema, world):
    train_vae(None, [*SHORT, "run.out=vae"])
    os.environ.pop("KINEMA_RUN_ID", None)
    assert kinema("encode", "model=vae", "data.split=train", "out=cache")[0] == 0
    small = ["dit.width=16", "dit.depth=1", "dit.num_heads=2", "text.main.width=8"]
    train_dit(None, ["vae=vae", "cache=cache", "run.out=dit", "batch_cells=2048", *SHORT[:3], *small])
    refused(kinema("generate", "dit", "a red circle", "--frames", "7"), "7 frames", "5", "9")
    refused(kinema("generate", "vae", "a red circle"), "vae", "dit")
    refused(kinema("animate", "dit", "missing.png"), "missing.png")
    assert not Path("generated").exists()


def test_an_unknown_split_lists_those_there_are(kinema, world):
    refused(kinema("train", "vae", *SHORT, "data.split=report"), "report", "train")


def test_a_world_is_not_written_over_a_folder(kinema, world):
    refused(kinema("data", "make-world", "world", "--clips", "3"), "world", "not empty")
    refused(kinema("data", "make-world", "prompts", "--split", "choose", "--sizes", "9x32"), "9x32", "frames")
