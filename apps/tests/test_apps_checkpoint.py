"""Checkpoints: whole after a kill, exact on resume, and taken when a signal comes."""

import json
import os
import signal
import subprocess
import sys
import time

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from kinema.checkpoint import (
    begin,
    checkpoints,
    commit,
    is_whole,
    newest_checkpoint,
    read_manifest,
    trainer_file,
    verify,
)
from kinema.checkpointing import BatchPosition, Checkpointing
from kinema.ema import EMA
from kinema.errors import ConfigError, UserError
from kinema.runs import open_run


def saved(folder, step, content="x", keep=2):
    temporary = begin(folder, step)
    (temporary / "part").mkdir()
    (temporary / "part" / "data").write_text(content)
    return commit(temporary, step=step, keep=keep)


class Endless(IterableDataset):
    """Batch k is a function of k."""

    def __init__(self, start):
        self.start = start

    def __iter__(self):
        k = self.start
        while True:
            yield torch.randn(4, 3, generator=torch.Generator().manual_seed(k)), k
            k += 1


class Data(pl.LightningDataModule):
    def __init__(self, position, num_workers=0):
        super().__init__()
        self.position, self.num_workers = position, num_workers

    def train_dataloader(self):
        return DataLoader(Endless(self.position.batches), batch_size=None, num_workers=self.num_workers)


class Model(pl.LightningModule):
    def __init__(self, at=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.seen, self.at = [], at or {}

    def training_step(self, batch, _):
        x, k = batch
        self.seen.append(int(k))
        if self.global_step in self.at:
            self.at.pop(self.global_step)()
        return self.layer(x).square().mean()

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trained(folder, steps, *, resume=None, at=None, every=None, accumulate=1, num_workers=0, minutes=None):
    """(model, ema) after `steps` optimiser steps."""
    position, ema, model = BatchPosition(), EMA(0.9), Model(at)
    checkpointing = Checkpointing(folder, every_n_steps=every, every_minutes=minutes)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[checkpointing, position, ema],
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    ckpt = None if resume is None else str(trainer_file(resume))
    trainer.fit(model, Data(position, num_workers), ckpt_path=ckpt)
    return model, ema


def test_a_checkpoint_is_renamed_when_whole_and_the_last_two_are_kept(tmp_path):
    first = saved(tmp_path, 1)
    assert first.name == "step-000001" and is_whole(first)
    assert (tmp_path / "LATEST").read_text() == "step-000001"
    for step in (2, 3):
        saved(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002", "step-000003"]
    manifest = read_manifest(tmp_path / "step-000003")
    assert manifest["step"] == 3 and manifest["files"]["part/data"]["size"] == 1
    assert manifest["versions"]["kinema"]


def test_what_is_not_whole_is_passed_over(tmp_path):
    saved(tmp_path, 1)
    damaged = saved(tmp_path, 2)
    (damaged / "part" / "data").write_text("")  # LATEST still names it
    left = begin(tmp_path, 3)
    (left / "part").write_text("half")
    assert newest_checkpoint(tmp_path).name == "step-000001"
    (damaged / "manifest.json").write_text("{")
    assert newest_checkpoint(tmp_path).name == "step-000001"
    begin(tmp_path, 4)
    assert not left.exists()
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_the_last_saved_counts_even_where_a_higher_step_is_left_from_before(tmp_path):
    saved(tmp_path, 100)
    saved(tmp_path, 200)
    saved(tmp_path, 110)  # resumed from 100
    assert newest_checkpoint(tmp_path).name == "step-000110"
    again = saved(tmp_path, 200)
    assert again.name == "step-000200-2"
    (tmp_path / "LATEST").unlink()
    assert newest_checkpoint(tmp_path) == again
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000110", "step-000200-2"]


def test_a_changed_file_is_found_by_its_hash(tmp_path):
    path = saved(tmp_path, 1, "abc")
    verify(path)
    (path / "part" / "data").write_text("abd")
    assert is_whole(path)
    with pytest.raises(UserError, match="part/data is not the file that was saved"):
        verify(path)


KILLED = """
import sys
from pathlib import Path
from kinema.checkpoint import begin, commit
folder = Path(sys.argv[1])
for step in range(1, 10_000):
    temporary = begin(folder, step)
    for part in "abc":
        (temporary / part).write_bytes(bytes([step % 251]) * 200_000)
    commit(temporary, step=step)
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_newest_whole(tmp_path):
    for trial in range(6):
        folder = tmp_path / str(trial)
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(3):
            told = int(process.stdout.readline())
        time.sleep(0.003 * trial)
        process.kill()
        told = max([told, *(int(line) for line in process.stdout.read().split())])
        process.wait()
        newest = newest_checkpoint(folder)
        verify(newest)
        assert read_manifest(newest)["step"] in (told, told + 1)


@pytest.mark.parametrize(("accumulate", "num_workers"), [(1, 0), (2, 0), (1, 1)])
def test_a_resumed_training_equals_one_that_was_never_stopped(tmp_path, accumulate, num_workers):
    straight, straight_ema = trained(tmp_path / "a", 7, accumulate=accumulate, num_workers=num_workers)
    trained(tmp_path / "b", 4, every=3, accumulate=accumulate, num_workers=num_workers)
    assert [path.name for path in checkpoints(tmp_path / "b")] == ["step-000003", "step-000004"]
    for path in checkpoints(tmp_path / "b"):
        model, ema = trained(tmp_path / "c" / path.name, 7, resume=path, accumulate=accumulate, num_workers=num_workers)
        done = read_manifest(path)["step"] * accumulate
        assert model.seen == straight.seen[done:]
        for key, value in straight.state_dict().items():
            assert torch.equal(value, model.state_dict()[key])
        for key, value in straight_ema.state_dict()["average"].items():
            assert torch.equal(value, ema.state_dict()["average"][key])


def test_a_checkpoint_holds_no_pickled_code(tmp_path):
    trained(tmp_path, 2)
    content = torch.load(trainer_file(newest_checkpoint(tmp_path)), weights_only=True)
    assert content["global_step"] == 2
    assert content["callbacks"]["BatchPosition"] == {"batches": 2}


def test_sigterm_saves_the_step_in_flight_and_exits_with_143(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        trained(tmp_path, 50, at={3: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert caught.value.code == 143
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000004"]
    assert signal.getsignal(signal.SIGTERM) is before
    straight, _ = trained(tmp_path / "straight", 6)
    resumed, _ = trained(tmp_path, 6, resume=newest_checkpoint(tmp_path))
    assert torch.equal(straight.layer.weight, resumed.layer.weight)


def test_a_checkpoint_of_another_architecture_is_refused_with_the_keys(tmp_path):
    trained(tmp_path / "run", 2)
    run = open_run("dit", root=tmp_path, resume=str(tmp_path / "run"))
    run.check(Model())
    other = Model()
    other.layer = nn.Linear(3, 2)
    other.extra = nn.Linear(1, 1)
    message = r"step-000002 is a checkpoint of another architecture: missing extra.bias, extra.weight; mismatched layer"
    with pytest.raises(ConfigError, match=message):
        run.check(other)
    run.close()


def test_sigusr1_saves_and_goes_on(tmp_path):
    trained(tmp_path, 5, at={1: lambda: os.kill(os.getpid(), signal.SIGUSR1)})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002", "step-000005"]


def test_time_alone_can_make_it_save(tmp_path):
    trained(tmp_path, 3, minutes=0.0)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002", "step-000003"]


def test_an_error_saves_nothing_new(tmp_path):
    def fail():
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        trained(tmp_path, 9, every=2, at={3: fail})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002"]


TWO_RANKS = """
import os, signal, sys, json
sys.path.insert(0, {tests!r})
from test_apps_checkpoint import *
from lightning.pytorch.strategies import DDPStrategy

def hit():
    if trainer.global_rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)

position, model = BatchPosition(), Model({{3: hit}})
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"), max_steps=500,
    callbacks=[Checkpointing({folder!r}), position], use_distributed_sampler=False, logger=False,
    enable_progress_bar=False, enable_model_summary=False, default_root_dir={folder!r})
trainer.fit(model, Data(position))
"""


@pytest.mark.slow
def test_sigterm_to_one_rank_of_two_saves_on_both_and_ends_both(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO_RANKS.format(tests=os.path.dirname(__file__), folder=str(tmp_path)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 143, done.stderr
    (path,) = checkpoints(tmp_path)
    assert read_manifest(path)["step"] == 4 and read_manifest(path)["world_size"] == 2


def test_a_run_is_made_resumed_and_kept_from_others(tmp_path):
    run = open_run("dit", root=tmp_path)
    assert run.id.startswith("dit-2") and run.folder.is_dir() and run.checkpoint_path is None
    with pytest.raises(UserError, match="is in use by another process"):
        open_run("dit", root=tmp_path, run_id=run.id)
    path = saved(run.folder, 5)
    run.close()

    with pytest.raises(UserError, match="has checkpoints already; resume it with --resume auto"):
        open_run("dit", root=tmp_path, run_id=run.id)
    for options in ({"resume": "auto"}, {"resume": "auto", "run_id": run.id}, {"resume": str(path)}):
        again = open_run("dit", root=tmp_path, **options)
        assert (again.id, again.resumed_from) == (run.id, path)
        assert again.checkpoint_path == str(path / "trainer.ckpt")
        again.close()
    branch = open_run("dit", root=tmp_path, run_id="branch", resume=str(run.folder))
    assert (branch.folder, branch.resumed_from) == (tmp_path / "branch", path)
    branch.close()


def test_only_auto_starts_afresh_where_there_is_nothing_to_resume(tmp_path):
    fresh = open_run("vae", root=tmp_path, resume="auto")
    assert fresh.resumed_from is None
    fresh.close()
    half = tmp_path / "vae-1" / "step-000004"
    half.mkdir(parents=True)
    (half / "manifest.json").write_text(json.dumps({"files": {"gone": {"size": 1}}}))
    for path in (tmp_path / "nowhere", half, half.parent):
        with pytest.raises(UserError, match="no whole checkpoint at"):
            open_run("vae", root=tmp_path, resume=str(path))
    with pytest.raises(ConfigError, match=r"run id '\.\./x'"):
        open_run("vae", root=tmp_path, run_id="../x")


def test_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpointing(tmp_path, keep=0)
