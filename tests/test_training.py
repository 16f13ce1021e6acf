"""The trainings end to end on tiny models: every part swapped by config alone, ranks that agree, resuming, a user's own
Trainer. All through the functions behind `kinema train`.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import av
import kinema_core
import pytest
import torch
from kinema.cli import app
from kinema.components import build
from kinema.encode import encode_command
from kinema.model_folder import load_model
from kinema.pipeline import Pipeline, Request
from kinema.training.run import train_clip, train_dit, train_vae
from kinema_core import samplers
from kinema_data import read_metadata, write_video
from mlflow import MlflowClient
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
DATA = ["data.name=shapes", "data.num_clips=48", "validation.name=shapes", "validation.num_clips=4"]
SHORT = ["trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.checkpoint_minutes=null"]
SMALL = ["dit.name=video_dit", "dit.width=24", "dit.depth=1", "dit.num_heads=2", "batch_cells=4096"]
TINY_VAE = ["vae.widths=[16]", "vae.latent_channels=4", "vae.unshuffle=[4,8,8]"]


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    """A working folder with a VAE, a CLIP, and a cache of latents and of the CLIP's text features."""
    folder = tmp_path_factory.mktemp("space")
    before = Path.cwd()
    os.chdir(folder)
    train_vae(None, [*DATA, *SHORT, *TINY_VAE, "run.out=vae"])
    train_clip(None, [*DATA, *SHORT, *clip_words("text"), "text.trainable=true", "batch_clips=16", "run.out=clip"])
    frozen = ["text.main.name=open_clip", "text.main.weights=clip/text/model.safetensors", *clip_words("text.main")]
    encode_command(None, [*DATA[:2], "model=vae", "out=cache", *frozen])
    yield folder
    os.chdir(before)


def clip_words(node: str) -> list[str]:
    small = {"timm_model_name": "test_resnet", "image_size": 32, "embed_dim": 16, "text_width": 16}
    return [f"{node}.image_text.{key}={value}" for key, value in small.items()]


def words(*more: str) -> list[str]:
    return [*DATA[2:], *SHORT, *SMALL, "vae=vae", "cache=cache", "samples.clips=0", *more]


def sample(model: str, **changes: object) -> torch.Tensor:
    pipeline = Pipeline.load(model, num_steps=3, **changes)
    sizes = [(5, 24, 40), (1, 17, 30)]
    given = [torch.zeros(3, *size) if pipeline.sampler.from_clean else None for size in sizes]
    prompts = ["a red circle moves left", ""]
    requests = [
        Request(prompt, *size, id=prompt, given=clip) for prompt, size, clip in zip(prompts, sizes, given, strict=True)
    ]
    videos = [clip.video for clip in pipeline.generate(requests)]
    assert [tuple(v.shape) for v in videos] == [(3, 5, 24, 40), (3, 1, 17, 30)]
    assert all(torch.isfinite(v).all() for v in videos)
    return videos[0]


def test_vae_is_whitened(space):
    (vae,) = load_model("vae").of_kind("vae")
    dataset = build(kinema_core.datasets, {"name": "shapes", "num_clips": 48})
    with torch.no_grad():
        cells = torch.cat([vae.encode(dataset[i].video[None])[0].flatten(1) for i in range(48)], dim=1)
    assert cells.mean(1).abs().max() < 1e-3
    assert (cells.std(1) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("law", ["flow", "edm", "ddpm"])
def test_a_model_of_any_law_samples_with_every_sampler(space, law):
    train_dit(None, words(f"diffusion.name={law}", f"run.out=law-{law}"))
    for name in samplers.names():
        node = {"name": name}
        if name == "sdedit":
            node |= {"base": {"name": "euler"}, "strength": 1.0}
        sample(f"law-{law}", sampler=build(samplers, node))


def test_text_encoder_by_config(space):
    train_dit(None, words("text.main.name=tiny", "text.main.width=16", "text.main.depth=1", "run.out=tiny"))
    (node,) = [n for key, n in load_model("tiny").nodes.items() if key.startswith("text")]
    assert node["name"] == "tiny"
    sample("tiny")


def test_two_streams_one_frozen_with_features_from_the_cache(space):
    clip = ["text.main.name=open_clip", "text.main.weights=clip/text/model.safetensors", *clip_words("text.main")]
    tiny = ["text.second.name=tiny", "text.second.width=16", "text.second.depth=1"]
    train_dit(None, words(*clip, *tiny, "run.out=streams"))
    model = load_model("streams")
    assert [model.nodes[key]["name"] for key in ("text.main", "text.second")] == ["open_clip", "tiny"]
    before = load_model("clip").components["text"].state_dict()
    after = model.components["text.main"].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    sample("streams")


def test_features_of_another_encoder_in_the_cache_are_not_used(space, capsys):
    clip = ["text.main.name=open_clip", *clip_words("text.main")]  # its weights are random
    train_dit(None, words(*clip, "run.out=other"))
    assert "cache holds text features of other encoders" in capsys.readouterr().out
    weights = "text.main.weights=clip/text/model.safetensors"
    train_dit(None, words(*clip, weights, "run.out=same"))
    assert "other encoders" not in capsys.readouterr().out


def test_tasks_from_the_command_line(space):
    train_dit(None, words("text.main.width=16", "run.out=tasks"))
    run, short = CliRunner(), ["--steps=2", "--out=made"]

    def made(*line: str) -> tuple[str, list[int]]:
        done = run.invoke(app, [*line, *short])
        assert done.exit_code == 0, done.output
        path = done.output.split("wrote ")[-1].replace("\n", "").strip()
        return path, read_metadata(path)["size"]

    for i, frames in enumerate((9, 12)):
        video = torch.randint(0, 256, (frames, 32, 32, 3), dtype=torch.uint8)
        write_video(Path(f"given{i}.mp4"), video, 8.0)
    longer, size = made("extend", "tasks", "given0.mp4", "it moves", "--both", "--frames=3")
    assert size == [15, 32, 32]
    # What was written enlarged for players is taken at its own size.
    assert made("loop", "tasks", longer, "--frames=4")[1] == [19, 32, 32]
    assert made("connect", "tasks", "given0.mp4", "given1.mp4", "--frames=4")[1] == [25, 32, 32]
    assert made("edit", "tasks", "given0.mp4", "a blue square", "--strength=0.5")[1] == [9, 32, 32]
    assert made("edit", "tasks", "given0.mp4", "", "--strength=1", "--width=48")[1] == [9, 32, 48]
    file, size = made("generate", "tasks", "a red circle", "--frames=5", "--width=20", "--seed=3")
    assert size == [5, 32, 20]
    cached, size = made(
        "generate",
        "tasks",
        "a red circle",
        "--frames=22",
        "--window=9",
        "--step-cache=0.5",
        "--negative-prompt=a square",
        "--set=sampler.name=ddim",
        "--set=dit.attention=window",
    )
    assert size == [22, 32, 32]
    for one in (file, cached):
        again = run.invoke(app, ["reproduce", one, "tasks", "--out=again"])
        assert again.exit_code == 0 and "has the same frames" in again.output
    assert made("generate", "tasks", "a red circle", "--height=40", "--preview")[1] == [9, 40, 32]
    still, size = made("image", "tasks", "a red circle", "--height=33")
    assert size == [1, 33, 32] and still.endswith(".png")
    assert made("animate", "tasks", still, "it moves", "--at=last", "--frames=5")[1] == [5, 33, 32]
    at_first = made("animate", "tasks", still, "it moves", "--at=first", "--frames=5")[0]
    assert at_first != made("animate", "tasks", still, "it moves", "--at=last", "--frames=5")[0], "names of their own"
    refused = run.invoke(app, ["reproduce", file, "tasks", "--out=made"])
    assert "name another with --out" in str(refused.exception)
    for wrong, message in ((longer, "run that command again"), ("given0.mp4", "does not say how it was made")):
        assert message in str(run.invoke(app, ["reproduce", wrong, "tasks"]).exception)
    refused = run.invoke(app, ["loop", "tasks", "given0.mp4", "--frames=5", *short])
    assert "use 4 or 8" in str(refused.exception)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Installs a stranger's package by pip into a folder of its own, for this test."""

    def install(name: str) -> None:
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation", "--target", tmp_path]
        subprocess.run([*pip, ROOT / "tests" / "plugins" / name], check=True)
        monkeypatch.syspath_prepend(tmp_path)
        kinema_core.refresh()

    yield install
    monkeypatch.undo()
    kinema_core.refresh()


def test_a_foreign_vae_is_swapped_in_by_its_name_alone(space, plugin):
    plugin("acme-video-vae")
    # The demo's config sets keys of causal3d; the name alone drops them.
    config = ROOT / "apps" / "src" / "kinema" / "configs" / "demo" / "vae.yaml"
    train_vae(str(config), [*DATA, *SHORT, "vae.name=acme", "run.out=acme"])
    encode_command(None, [*DATA[:2], "model=acme", "out=acme-cache"])
    train_dit(None, words("vae=acme", "cache=acme-cache", "text.main.width=16", "run.out=acme-dit"))
    assert load_model("acme-dit").nodes["vae"]["name"] == "acme"
    sample("acme-dit")


def test_a_foreign_transformer_is_swapped_in_by_its_name_alone(space, plugin):
    plugin("acme-mixer-dit")
    # The words of SMALL set keys of video_dit, so a file has to: the name on the command line drops them.
    Path("small.yaml").write_text("dit: {name: video_dit, width: 24, depth: 1, num_heads: 2}")
    without = [word for word in words("run.out=mixer") if not word.startswith("dit.")]
    train_dit("small.yaml", [*without, "dit.name=acme_mixer"])
    assert load_model("mixer").nodes["dit"]["name"] == "acme_mixer"
    sample("mixer")


@pytest.mark.parametrize(
    "change",
    [
        ["dit.text_attention=joint", "packs=2", "pack_quadratic=1e-3", "batch_cells=1024"],
        ["dit.attention=window", "sizes_per_step=1"],
        ["dit.attention=block_causal", "dit.checkpointing=true"],
    ],
)
def test_attention_and_batches_by_config(space, change):
    train_dit(None, words("text.main.width=16", *change, "run.out=changed"))
    sample("changed")


def test_adapters_alone_are_trained_and_merged(space):
    # Layers that begin as zero learn from the second and third step on.
    train_dit(None, words("text.main.width=16", "trainer.max_steps=5", "optim.warmup=0", "run.out=base"))
    frozen = ["text.main.width=16", "text.main.weights=base/text.main/model.safetensors"]
    lora = [
        "dit.init_from=base",
        "lora.rank=2",
        "lora.targets=[qkv]",
        "optim.warmup=0",
        "run.id=lora",
        "run.out=merged",
    ]
    train_dit(None, words(*frozen, *lora))
    assert Path("runs/lora/pytorch_lora_weights.safetensors").is_file()
    base, merged = (load_model(name).components["dit"].state_dict() for name in ("base", "merged"))
    changed = {name for name, value in base.items() if not torch.equal(value, merged[name])}
    assert changed == {"blocks.0.qkv.weight"} and base.keys() == merged.keys()
    sample("merged")


def test_the_peer_of_diffusers_by_its_name(space):
    without = [word for word in words("run.out=peer") if not word.startswith("dit.")]
    shape = ["dit.name=diffusers_wan", "dit.width=24", "dit.depth=1", "dit.num_heads=2"]
    train_dit(None, [*without, *shape, "text.main.width=16"])
    sample("peer")


def test_a_cache_of_another_vae_is_refused(space):
    train_vae(None, [*DATA, *SHORT, *TINY_VAE, "seed=1", "run.out=other-vae"])
    with pytest.raises(ValueError, match="made by something else"):
        train_dit(None, words("vae=other-vae"))


def test_mlflow_holds_the_run(space):
    """Config, parameters, tags with distributions and versions, loss, scores at several steps, mp4 that play."""
    every = ["clip=clip", "samples.clips=4", "samples.num_steps=2", "trainer.evaluate_every=1", "trainer.log_every=1"]
    more = ["validation.num_clips=4", "text.main.width=16", "run.experiment=record", "run.out=recorded"]
    train_dit(None, [*words(), *every, *more])
    client = MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("record").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["dit.width"] == "24"
    assert run.data.tags["component.dit"] == f"video_dit kinema-dit {version('kinema-dit')}"
    steps = {name: [m.step for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
    assert len(steps["train/loss"]) == 2
    assert set(steps["val/fvd_clip"]) == {1, 2}
    assert any(name.startswith("val/clip_score") for name in steps)
    found = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "images", "videos"} <= found
    folder = client.list_artifacts(run.info.run_id, "videos")[0].path
    video = client.download_artifacts(run.info.run_id, client.list_artifacts(run.info.run_id, folder)[0].path)
    with av.open(video) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert len(list(container.decode(stream))) > 1


SPY = """
import json, sys, torch
import lightning.pytorch as pl
from kinema.training import run
from kinema.training.dit_module import DiTModule

seen = []
inner = DiTModule.training_step

def step(self, batch, index):
    noise = self._noise(batch).split(batch.latents.lengths)
    for clip, part, t in zip(batch.ids, noise, self._times(batch).tolist()):
        seen.append([self.global_step, clip, part.double().sum().item(), t])
    return inner(self, batch, index)

DiTModule.training_step = step
run.train_dit(None, sys.argv[2:])
rank = __import__("os").environ.get("LOCAL_RANK", "0")
open(f"{sys.argv[1]}-{rank}.json", "w").write(json.dumps(seen))
"""


def test_one_rank_and_two_see_the_same_clips_and_noise_in_every_step(space, tmp_path):
    script = tmp_path / "spy.py"
    script.write_text(SPY)
    for devices in (1, 2):
        command = [sys.executable, script, tmp_path / f"ranks{devices}", *words(f"trainer.devices={devices}")]
        subprocess.run([*command, "trainer.max_steps=3", f"run.out=ranks{devices}"], check=True, timeout=240)
    one = json.loads((tmp_path / "ranks1-0.json").read_text())
    two = [row for rank in (0, 1) for row in json.loads((tmp_path / f"ranks2-{rank}.json").read_text())]
    assert {row[0] for row in one} == {0, 1, 2}
    assert sorted(one) == sorted(two)
    weights = [load_model(f"ranks{n}").components["dit"].state_dict() for n in (1, 2)]
    assert max((weights[0][key] - weights[1][key]).abs().max().item() for key in weights[0]) < 1e-4


def test_a_resumed_run_ends_with_the_same_weights(space):
    long = words("trainer.max_steps=4", "text.main.width=16", "optim.warmup=0", "optim.decay=0")
    train_dit(None, [*long, "run.id=whole", "run.out=whole"])
    train_dit(None, [*long, "trainer.max_steps=2", "run.id=parts", "run.out=parts"])
    train_dit(None, [*long, "run.id=parts", "run.out=parts"], resume="auto")
    whole, parts = (load_model(name).components["dit"].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_module_runs_in_a_users_own_trainer(space):
    example = ROOT / "docs" / "examples" / "own_trainer.py"
    assert len(example.read_text().splitlines()) < 25
    done = subprocess.run([sys.executable, example, "cache"], check=True, capture_output=True, text=True, timeout=240)
    assert "trained 5 steps" in done.stdout
