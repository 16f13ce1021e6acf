"""`kinema study sampling`: what its figures are, that nothing is measured twice, and a whole small study."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kinema_core import Clip, samplers
from kinema_data.worlds import make_world
from mlflow import MlflowClient
from typer.testing import CliRunner

from kinema.cli import app
from kinema.encode import encode_command
from kinema.errors import UserError
from kinema.pipeline import Request
from kinema.study import Results
from kinema.study_sampling import distance, estimate_error, walked
from kinema.training.run import train_vae

REQUESTS = [Request("a circle", frames=5, height=16, width=20), Request("", frames=1, height=16, width=16, id="1")]


def test_the_distance_to_the_reference_falls_by_the_order_of_the_sampler(pipeline):
    """Halved steps: half of Euler's error is left; a second-order sampler's is far below."""
    exact = replace(pipeline, sampler=samplers.build({"name": "dpmpp_2m"}), num_steps=400).sample(REQUESTS)

    def off(name: str, steps: int) -> float:
        changed = replace(pipeline, sampler=samplers.build({"name": name}), num_steps=steps)
        return distance(changed.sample(REQUESTS), exact)

    assert off("euler", 40) / off("euler", 80) == pytest.approx(2, rel=0.15)
    assert off("dpmpp_2m", 40) < off("euler", 40) / 10


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
    asked = {name: walked(samplers.build({"name": name}), pipeline, 8) for name in ("euler", "edm", "ddpm", "unipc")}
    # Heun's correction is left out of the last step and, where all is noise, of the first.
    assert asked == {"euler": (8, True), "edm": (14, True), "ddpm": (8, False), "unipc": (8, True)}


def test_a_cell_is_measured_once_and_kept(tmp_path):
    file, settings = tmp_path / "results.json", {"minutes": 5.0}
    results, counted = Results(file, settings), []
    for _ in range(2):
        assert results.get("a", lambda: counted.append(1) or {"all": 0.5}) == {"all": 0.5}
    with pytest.raises(RuntimeError):
        results.get("b", lambda: (_ for _ in ()).throw(RuntimeError))
    again = Results(file, settings)
    assert again.get("a", lambda: pytest.fail("measured twice")) == {"all": 0.5} and counted == [1]
    with pytest.raises(UserError, match=r"minutes 5\.0 and not 2\.0; name another folder"):
        Results(file, {"minutes": 2.0})


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
    encode_command(None, [*data, f"model={folder / 'models' / 'vae'}", f"out={folder / 'cache'}"])
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--laws=x0,flwo"], "'flwo' is no law of this study; known are x0, eps, v, edm, flow"),
        (["--samplers=sdedit"], "'sdedit' is no sampler of this study; known are .*unipc"),
        (["--steps=4,x"], "'x' is no number of steps"),
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
    assert set(cells) == walks | {"eps/seed 0", "flow/seed 0"}
    assert "distance" in cells["flow/euler/2"] and "distance" not in cells["flow/ddpm/2"]
    assert "flow: all" in done.output and Path("study/steps.png").stat().st_size > 10_000

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("kinema-study").experiment_id])
    history = client.get_metric_history(run.info.run_id, "eps/euler/all")
    assert [point.step for point in history] == [2, 3]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"tables.txt", "results.json", "estimates.png", "steps.png"} <= names

    weights = Path("study/models/flow-0/dit/model.safetensors")
    before = weights.stat().st_mtime_ns
    again = CliRunner().invoke(app, [*command[:-1], "--out=study"])
    assert again.exit_code == 0 and weights.stat().st_mtime_ns == before
    assert json.loads(Path("study/results.json").read_text())["cells"] == cells
