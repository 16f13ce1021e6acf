"""The tracker against a real MLflow store, made once for all tests here."""

import json
import math
import subprocess
import sys

import av
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from kinema.config import component, load_config
from kinema.tracking import MlflowTracker


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def client(store):
    return MlflowClient(store)


def history(client, tracker, key):
    return [(m.step, m.value) for m in client.get_metric_history(tracker.mlflow_run_id, key)]


class Model(pl.LightningModule):
    def __init__(self, fail_at=None):
        super().__init__()
        self.layer, self.fail_at = nn.Linear(2, 1), fail_at

    def training_step(self, batch, index):
        if index == self.fail_at:
            raise RuntimeError("bug")
        self.log("train/loss", torch.tensor(float(self.global_step)))
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(tracker, model=None):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=tracker,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tracker.folder,
    )
    trainer.fit(model or Model(), torch.utils.data.DataLoader(torch.randn(4, 2), batch_size=1))


def test_a_training_is_recorded(tmp_path, store, client):
    tracker = MlflowTracker(tmp_path / "dit-1", uri=store, experiment="exp", tags={"commit": "abc"})
    fit(tracker)
    run = client.get_run(tracker.mlflow_run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "dit-1"
    assert run.data.tags["kinema.run_id"] == "dit-1" and run.data.tags["commit"] == "abc"
    assert client.get_experiment(run.info.experiment_id).name == "exp"
    assert history(client, tracker, "train/loss") == [(step, float(step)) for step in range(4)]
    assert (tracker.name, tracker.version, tracker.save_dir) == ("exp", "dit-1", str(tmp_path / "dit-1"))


def test_a_failed_training_is_marked(tmp_path, store, client):
    tracker = MlflowTracker(tmp_path / "r", uri=store)
    with pytest.raises(RuntimeError, match="bug"):
        fit(tracker, Model(fail_at=2))
    assert client.get_run(tracker.mlflow_run_id).info.status == "FAILED"


def test_config_and_origins_are_recorded(tmp_path, store, client):
    from dataclasses import dataclass
    from typing import Any

    @dataclass
    class Config:
        lr: float = 0.1
        vae: dict[str, Any] = component("vae", name="causal3d", num_blocks=1)

    tracker = MlflowTracker(tmp_path / "r", uri=store)
    tracker.log_config(load_config(Config))
    tracker.finalize("success")
    run = client.get_run(tracker.mlflow_run_id)
    assert run.data.params == {"lr": "0.1", "vae.name": "causal3d", "vae.num_blocks": "1"}
    assert run.data.tags["component.vae"].startswith("causal3d kinema-vae 0.")

    resumed = MlflowTracker(tmp_path / "r", uri=store)
    resumed.log_config(load_config(Config, overrides=["lr=0.2", "vae.widths=[8]"]))
    assert resumed.flush()
    assert resumed.mlflow_run_id == tracker.mlflow_run_id
    run = client.get_run(tracker.mlflow_run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["lr"] == "0.1" and run.data.tags["changed.lr"] == "0.2"
    assert run.data.params["vae.widths"] == "[8]"
    names = {item.path for item in client.list_artifacts(tracker.mlflow_run_id)}
    assert names == {"config.yaml", "config_resume_1.yaml"}
    path = client.download_artifacts(tracker.mlflow_run_id, "config_resume_1.yaml", str(tmp_path))
    assert load_config(Config, path).lr == 0.2
    resumed.finalize("success")
    assert client.get_run(tracker.mlflow_run_id).info.status == "FINISHED"


def test_numbers_that_are_not_finite(tmp_path, store, client):
    tracker = MlflowTracker(tmp_path / "r", uri=store)
    tracker.log_metrics({"a": float("inf"), "b": float("nan"), "c": torch.tensor(2.5)}, 7)
    tracker.finalize("success")
    run = client.get_run(tracker.mlflow_run_id)
    assert run.data.tags["infinite.a"] == "inf at step 7"
    assert "a" not in run.data.metrics and run.data.metrics["c"] == 2.5
    assert math.isnan(run.data.metrics["b"])


def test_keys_are_made_fit(tmp_path, store, client):
    tracker = MlflowTracker(tmp_path / "r", uri=store)
    tracker.log_metrics({"acc@1 (held=out)//../x": 1.0, "/led": 2.0}, 0)
    tracker.log_hyperparams({"a[0]": "x"})
    tracker.log_image("prompt: a, b?", np.zeros((4, 4, 3), np.uint8), 0)
    tracker.finalize("success")
    run = client.get_run(tracker.mlflow_run_id)
    assert run.data.metrics == {"acc_1 _held_out_/_/x": 1.0, "led": 2.0}
    assert run.data.params == {"a_0_": "x"}
    assert len(client.list_artifacts(tracker.mlflow_run_id, "images")) == 2


def test_pictures_and_videos_can_be_looked_at(tmp_path, store, client):
    picture = torch.randint(0, 256, (6, 8, 3), dtype=torch.uint8)
    video = tmp_path / "red ball;.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode())
    tracker = MlflowTracker(tmp_path / "r", uri=store)
    tracker.log_image("samples/sheet", picture, 10)
    tracker.log_video(video, 10)
    inside = tracker.folder / "report.json"
    inside.write_text("{}")
    tracker.log_file(inside)
    tracker.log_file(inside, "../../evil")
    tracker.finalize("success")
    run_id = tracker.mlflow_run_id
    assert [item.path for item in client.list_artifacts(run_id, "videos/step_000010")] == [
        "videos/step_000010/red_ball_.mp4"
    ]
    path = client.download_artifacts(run_id, "videos/step_000010/red_ball_.mp4", str(tmp_path))
    with av.open(path) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    images = [item.path for item in client.list_artifacts(run_id, "images")]
    assert any("samples~sheet+step+10" in path and path.endswith(".png") for path in images)
    assert {item.path for item in client.list_artifacts(run_id)} >= {"report.json", "_"}
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        tracker.log_image("x", picture.float(), 0)


def test_a_server_that_is_away_does_not_stop_a_training_and_gets_all_later(tmp_path, store, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.warns(UserWarning) as warned:  # from the first value on: a thread sends them
        away = MlflowTracker(tmp_path / "r", uri="http://user:secret@127.0.0.1:9")
        away.log_hyperparams({"lr": 0.1})
        away.log_image("sheet", np.zeros((4, 4, 3), np.uint8), 3)
        fit(away)
    texts = [str(w.message) for w in warned]
    assert sum("cannot be reached" in text for text in texts) == 1
    assert not any("secret" in text for text in texts)
    assert away.mlflow_run_id is None
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines if line.get("key") == "train/loss"] == [0.0, 1.0, 2.0, 3.0]

    back = MlflowTracker(tmp_path / "r", uri=store)
    back.log_metrics({"train/loss": 4.0}, 4)
    back.finalize("success")
    assert history(client, back, "train/loss") == [(step, float(step)) for step in range(5)]
    run = client.get_run(back.mlflow_run_id)
    assert run.data.params == {"lr": "0.1"} and run.info.status == "FINISHED"
    assert client.list_artifacts(back.mlflow_run_id, "images")


def test_a_run_deleted_from_the_store_is_written_anew_from_its_file(tmp_path, store, client):
    first = MlflowTracker(tmp_path / "r", uri=store)
    first.log_metrics({"a": 1.0}, 0)
    first.finalize("success")
    client.delete_run(first.mlflow_run_id)
    second = MlflowTracker(tmp_path / "r", uri=store)
    second.log_metrics({"a": 2.0}, 1)
    second.finalize("success")
    assert second.mlflow_run_id != first.mlflow_run_id
    assert history(client, second, "a") == [(0, 1.0), (1, 2.0)]


def test_one_event_that_mlflow_refuses_does_not_hold_up_the_others(tmp_path, store, client):
    tracker = MlflowTracker(tmp_path / "r", uri=store)
    tracker.log_metrics({"a": 1.0}, 0)
    assert tracker.flush()
    with pytest.warns(UserWarning, match="MLflow did not take") as warned:
        tracker.log_metrics({"b": 2.0}, 2**70)
        tracker.log_image("gone", np.zeros((4, 4, 3), np.uint8), 0)
        (tmp_path / "r" / "images" / "gone_000000.png").unlink()
        tracker.log_metrics({"c": 3.0}, 0)
        assert tracker.flush()
    assert len([w for w in warned if "did not take" in str(w.message)]) == 2
    assert client.get_run(tracker.mlflow_run_id).data.metrics == {"a": 1.0, "c": 3.0}


def test_the_default_store_follows_the_environment_of_the_moment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    assert MlflowTracker("r")._store.uri == "http://host"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert MlflowTracker("r")._store.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_record_nothing(tmp_path, store, monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    tracker = MlflowTracker(tmp_path / "r", uri=store)
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.log_image("x", np.zeros((4, 4, 3), np.uint8), 0)
    tracker.finalize("success")
    assert tracker.mlflow_run_id is None and not (tmp_path / "r").exists()


def test_runs_that_start_at_once_share_a_new_database(tmp_path):
    """As two trainings side by side do: MLflow's own set-up of a file breaks if two processes do it at once."""
    script = """
import sys
from kinema.tracking import MlflowTracker
tracker = MlflowTracker(sys.argv[1], uri=sys.argv[2])
sys.stdin.readline()  # all are there
tracker.log_metrics({"loss": 1.0}, step=1)
tracker.finalize("success")
"""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-c", script]
    started = [
        subprocess.Popen([*command, tmp_path / name, uri], stdin=subprocess.PIPE, text=True) for name in ("one", "two")
    ]
    for process in started:
        process.stdin.write("\n")
        process.stdin.close()
    for process in started:
        process.wait()
    assert [process.returncode for process in started] == [0, 0]
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("kinema").experiment_id])
    assert {run.info.run_name: run.data.metrics for run in runs} == {"one": {"loss": 1.0}, "two": {"loss": 1.0}}
