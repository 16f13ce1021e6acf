"""`kinema study sampling`: what its figures are, that nothing is measured twice, and a whole small study."""

import json
import signal
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kinema_core import Clip, diffusions, samplers, seeded_normal
from kinema_data.worlds import make_world
from kinema_sampling import EDMLaw
from mlflow import MlflowClient
from typer.testing import CliRunner

from kinema.cli import app
from kinema.encode import encode_command
from kinema.errors import UserError
from kinema.pipeline import Pipeline, Request
from kinema.stages import Stages
from kinema.study import Cell, Results, spread, train_side_by_side, training_figures
from kinema.study_measures import distance, ends, estimate_error, walked
from kinema.study_sampling import LAWS
from kinema.training.run import train_clip, train_vae

REQUESTS = [Request("a circle", frames=5, height=16, width=20), Request("", frames=1, height=16, width=16, id="1")]
STEPS = (16, 32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class GaussianLaw(EDMLaw):
    """The exact clean estimate of latents with mean 0 and deviation `spread`, whatever the network says."""

    spread: float = 0.5

    def denoise(self, net, x, t, cond):
        data = self.spread**2
        return x.values * (data / (data + t.square()))[:, None].to(x.values.dtype)


@pytest.fixture
def exact(pipeline) -> Pipeline:
    return replace(pipeline, law=GaussianLaw(), vae=pipeline.vae, dit=pipeline.dit.double())


def test_the_reference_ends_where_the_exact_walk_does(exact):
    """The probability flow takes noise of deviation sqrt(s^2 + t^2) to s times as much of 1."""
    start = [seeded_normal((exact.vae.latent_channels, *grid), 0, r.id, -1) for grid, r in zip(
        [exact.vae.latent_grid(r.frames, r.height, r.width) for r in REQUESTS], REQUESTS, strict=True
    )]  # fmt: skip
    scale = 0.5 * 80 / (0.25 + 80**2) ** 0.5
    found = ends(exact, samplers.build({"name": "dpmpp_2m"}), 500, REQUESTS)
    assert distance(found, [z * scale for z in start]) < 1e-4


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("dpmpp_2m", 2), ("edm", 2), ("unipc", 3)])
def test_the_distance_to_the_reference_falls_by_the_order_of_the_sampler(exact, name, order):
    reference = ends(exact, samplers.build({"name": "dpmpp_2m"}), 1500, REQUESTS)
    sampler = samplers.build({"name": name})
    found = [distance(ends(exact, sampler, steps, REQUESTS), reference) for steps in STEPS]
    assert found == sorted(found, reverse=True)
    slope = np.polyfit(np.log(STEPS), np.log(found), 1)[0]
    assert -slope == pytest.approx(order, abs=0.35)


def test_all_laws_are_trained_on_the_same_noise():
    """Else the laws' figures would tell of their noise levels."""
    sizes, moments = torch.full((50_000,), 48), {}
    for name, node in LAWS.items():
        law = diffusions.build(node)
        t = law.sample_times(sizes, torch.Generator().manual_seed(0)).double().clamp(1e-6, None)
        ratio = (law.sigma(t) / law.alpha(t).clamp(min=1e-9)).log()
        moments[name] = [ratio.mean().item(), ratio.std().item()]
    for found in moments.values():
        assert found == pytest.approx(moments["v"], abs=0.1), moments


def test_clips_of_any_size_count_the_same():
    ones = [torch.ones(2, 1, 2, 2), torch.ones(2, 3, 4, 4)]
    assert distance(ones, [torch.zeros_like(ones[0]), ones[1]]) == pytest.approx(0.5**0.5)


def test_the_error_of_estimates_at_a_signal_to_noise_ratio(pipeline):
    """A network that says 0 leaves x_t as the estimate under the flow law: t (eps - x0) is the error."""
    pipeline = replace(pipeline, dit=lambda x, *_: torch.zeros_like(x.values))
    pipeline.dit.parameters = pipeline.dit.buffers = lambda: iter(())
    video = torch.rand(3, 9, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    clips = [Clip(str(i), video.roll(i, 2), 8.0, {"short": ""}) for i in range(4)]
    power = torch.stack([pipeline.vae.encode(clip.video[None]) for clip in clips]).square().mean().item()
    for log_snr in (-4.0, 0.0, 3.0):
        t = 1 / (1 + torch.tensor(log_snr / 2).exp().item())
        assert estimate_error(pipeline, clips, log_snr) == pytest.approx(t**2 * (1 + power), rel=0.03)


def test_what_a_sampler_asks_for(pipeline):
    asked = {
        name: walked(samplers.build({"name": name}), pipeline.law, 8) for name in ("euler", "edm", "ddpm", "unipc")
    }
    # Heun's correction is left out of the last step and, where all is noise, of the first.
    assert asked == {"euler": (8, True), "edm": (14, True), "ddpm": (8, False), "unipc": (8, True)}


def test_a_cell_is_measured_once_and_kept(tmp_path, capsys):
    file, settings, counted = tmp_path / "study" / "results.json", {"minutes": 5.0}, []

    def fail() -> dict[str, float]:
        raise RuntimeError

    cells = {"a": Cell(lambda: counted.append(1) or {"all": 0.5}), "b": Cell(fail)}
    for _ in range(2):  # the second time as a command that is called again
        with pytest.raises(RuntimeError):
            Results(file, settings).fill(cells, shown=["all", "fvd"])
    assert counted == [1] and Results(file, settings).cells == {"a": {"all": 0.5}}
    assert "[1/2] a: all 0.5;" in capsys.readouterr().out


def test_a_study_keeps_its_settings_from_the_start(tmp_path):
    """What was trained before the first cell depends on them."""
    Results(tmp_path / "study" / "results.json", {"minutes": 5.0})
    with pytest.raises(UserError, match=r"minutes 5\.0 and not 2\.0; name another folder"):
        Results(tmp_path / "study" / "results.json", {"minutes": 2.0})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match="mine is not empty and holds no study"):
        Results(tmp_path / "mine" / "results.json", {})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_the_loss_is_that_of_the_last_steps_and_of_the_resumed_ones(tmp_path):
    (tmp_path / "runs" / "v-0").mkdir(parents=True)
    logged = [(step, 9.0) for step in range(0, 100, 10)] + [(80, 1.0), (90, 2.0), (100, 3.0)]
    events = [{"kind": "metric", "key": "train/loss", "value": value, "step": step} for step, value in logged]
    events += [{"kind": "param", "key": "seed", "value": "0"}, {**events[0], "key": "skipped_clips", "step": 100}]
    (tmp_path / "runs" / "v-0" / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert training_figures(tmp_path, "v-0") == {"loss": 2.0, "steps": 100.0}


def test_models_are_trained_two_at_a_time_and_whole_ones_left(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(Stages, "run", lambda _, commands, seeded: ran.append(commands))
    (tmp_path / "models" / "b").mkdir(parents=True)
    (tmp_path / "models" / "b" / "kinema.yaml").touch()
    (tmp_path / "models" / "c").mkdir()  # not whole
    train_side_by_side(tmp_path, {name: ["train", "dit"] for name in "abcd"}, 5)
    assert [list(commands) for commands in ran] == [["a", "c"], ["d"]]
    assert {"run.out=models/c", "run.id=c", "--resume=auto"} < set(ran[0]["c"])


def test_an_interrupted_study_leaves_no_training_behind(tmp_path, monkeypatch):
    started = []

    def sleeper(*_: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    monkeypatch.setattr(Stages, "_start", sleeper)
    # What runs in the background of a shell is started with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, 0).run({"a": [], "b": []})
    signal.signal(signal.SIGINT, before)
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2


def test_seeds_are_spread():
    cells = [{"all": 0.2, "loss": 1.0}, {"all": 0.6, "loss": 1.5}]
    assert spread(cells) == ({"all": 0.4, "loss": 1.25}, {"all": pytest.approx(0.4), "loss": 0.5})


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """What `kinema demo` leaves, as far as a study reads it."""
    folder = tmp_path_factory.mktemp("demo")
    make_world(folder / "world", num_clips=40, splits={"train": 0.8, "choose": 0.2})
    data = [f"data.path={folder / 'world'}"]
    small = ["vae.widths=[16]", "vae.latent_channels=4", "vae.unshuffle=[4,8,8]", "trainer.accelerator=cpu"]
    record = [f"run.dir={folder / 'runs'}", f"run.tracking_uri=sqlite:///{folder / 'mlflow.db'}"]
    train_vae(
        None, [*data, *small, *record, "validation=null", "trainer.max_steps=2", f"run.out={folder / 'models' / 'vae'}"]
    )
    clip = {"timm_model_name": "test_resnet", "image_size": 32, "embed_dim": 16, "text_width": 16}
    tiny = [f"text.image_text.{key}={value}" for key, value in clip.items()]
    often = ["trainer.accelerator=cpu", "validation=null", "trainer.max_steps=2", "batch_clips=16"]
    train_clip(None, [*data, *record, *tiny, *often, "text.trainable=true", f"run.out={folder / 'models' / 'clip'}"])
    encode_command(None, [*data, f"model={folder / 'models' / 'vae'}", f"out={folder / 'cache'}"])
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--laws=x0,flwo"], "'flwo' is no law of this study; known are x0, eps, v, edm, flow"),
        (["--samplers=sdedit"], "'sdedit' is no sampler of this study; known are .*unipc"),
        (["--steps=4,x"], "'x' is no number of steps"),
        (["--steps=4,8", "--reference=8"], "the reference has 8 steps; it needs more than 8"),
        (["--laws=,"], "a study needs at least one law"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(demo, tmp_path, words, message):
    done = CliRunner().invoke(app, ["study", "sampling", str(demo), f"--out={tmp_path / 'study'}", *words])
    assert done.exit_code != 0 and not (tmp_path / "study").exists()
    with pytest.raises(AssertionError if "no number" in message else UserError, match=message):
        raise done.exception if isinstance(done.exception, UserError) else AssertionError(done.output)


def test_a_folder_that_is_no_demo(tmp_path):
    done = CliRunner().invoke(app, ["study", "sampling", str(tmp_path)])
    assert "has no world/world.json; give a folder that `kinema demo` wrote" in str(done.exception)


@pytest.mark.slow
def test_a_whole_study_and_again(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    few = ["--minutes=0.02", "--seeds=1", "--clips=4", "--laws=eps,flow", "--samplers=euler,ddpm", "--steps=2,3"]
    command = ["study", "sampling", str(demo), *few, "--reference=8", "--out=study"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output or done.exception
    cells = json.loads(Path("study/results.json").read_text())["cells"]
    walks = {f"{law}/{name}/{n}" for law in ("eps", "flow") for name in ("euler", "ddpm") for n in (2, 3)}
    assert set(cells) == walks | {"eps/seed 0", "flow/seed 0", "real"}
    assert cells["real"]["all"] == 1
    assert all({"all", "motion", "fvd", "kvd"} <= set(cell) for cell in cells.values())
    assert all({"loss", "steps", "error at +0"} <= set(cells[f"{law}/seed 0"]) for law in ("eps", "flow"))
    assert "distance" in cells["flow/euler/2"] and "distance" not in cells["flow/ddpm/2"]
    assert "flow: all" in done.output and Path("study/steps.png").stat().st_size > 10_000

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("kinema-study").experiment_id])
    assert run.info.run_name == "study-sampling-study" and run.data.metrics["flow/loss"] > 0
    history = client.get_metric_history(run.info.run_id, "eps/euler/all")
    assert [point.step for point in history] == [2, 3]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"tables.txt", "results.json", "estimates.png", "steps.png"} <= names

    weights = Path("study/models/flow-0/dit/model.safetensors")
    before = weights.stat().st_mtime_ns
    again = CliRunner().invoke(app, [*command[:-1], "--out=study"])
    assert again.exit_code == 0 and weights.stat().st_mtime_ns == before
    assert json.loads(Path("study/results.json").read_text())["cells"] == cells
