"""The command line as a user has it: exit codes, one-line mistakes, and a quick start."""

import os
import subprocess
import sys

import pytest
import yaml

from kinema import cli


def test_every_public_name_is_there():
    import kinema

    for name in kinema.__all__:
        assert getattr(kinema, name).__name__ == name
    assert sorted(name for names in kinema._HOMES.values() for name in names) == sorted(kinema.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pipelines'"):
        _ = kinema.pipelines


@pytest.fixture
def kinema(monkeypatch, capsys):
    """Run `kinema WORDS...` in this process: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["kinema", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys, kinema.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lightning", "mlflow", "kinema_core", "omegaconf", "numpy"} & set(loaded)


@pytest.mark.skipif(sys.platform != "linux", reason="large pages are asked for on Linux only")
def test_a_command_that_computes_starts_anew_with_large_pages(tmp_path):
    # The old process ends at exec; in the new one this module runs as the command does.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nprint(os.getpid(), os.environ.get('GLIBC_TUNABLES'), flush=True)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment["PYTHONPATH"] = str(tmp_path)
    words = [sys.executable, "-m", "kinema", "generate", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    first, second, *rest = done.stdout.splitlines()
    assert first.split()[0] == second.split()[0] and first.split()[1] == "None"
    assert second.split()[1] == "glibc.malloc.hugetlb=1"
    assert "--frames" in "".join(rest)


def test_help_names_every_command(kinema):
    code, out, _ = kinema("--help")
    assert code == 0
    for command in ("components", "doctor", "demo", "data", "train", "encode", "generate", "animate", "evaluate"):
        assert command in out
    assert kinema()[:2] == (0, out)
    assert kinema("--version")[1].startswith("kinema 0.")


def test_components_are_listed_and_described(kinema):
    code, out, _ = kinema("components", "--plain")
    assert code == 0 and "vae\tcausal3d\tkinema-vae\t0.1.0" in out.splitlines()
    code, out, _ = kinema("components", "causal3d", "--plain")
    keys = [line.split("\t")[0] for line in out.splitlines()]
    assert code == 0 and {"latent_channels", "num_blocks"} <= set(keys)
    assert "causal3d" in kinema("components")[1]
    # One name, two kinds.
    assert kinema("components", "ddpm")[1].count("(kinema-sampling") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("components", "causl3d"), "kinema: no component is named 'causl3d' (did you mean 'causal3d'?)"),
        (("trian",), "kinema: No such command 'trian'."),
        (("train", "vae", "--confg", "x"), "kinema: No such option: --confg"),
        (("train", "vae", "--seed", "x"), "kinema: Invalid value for '--seed'"),
        (("train", "vae", "--config", "nowhere.yaml"), "kinema: there is no config file nowhere.yaml"),
        (("train", "vae", "vae.num_block=2"), "kinema: vae.num_block is no setting of 'causal3d'"),
        (("train", "dit", "dit.name=video_dti"), "kinema: no dit component is named 'video_dti'"),
        (("train", "clip", "optm.lr=1"), "kinema: optm is no setting (did you mean 'optim'?)"),
        (("train", "vae", "optim.lr=fast"), "kinema: optim.lr is 'fast'; it has to be a number"),
        (("generate", "nowhere", "a ball"), "kinema: nowhere is no model folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(kinema, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = kinema(*words)
    assert code == 2 and err.startswith(message), err
    assert err.count("\n") == 1 and "Traceback" not in err and out == ""
    assert list(tmp_path.iterdir()) == []


def test_config_file_words_and_seed_reach_the_training(kinema, tmp_path):
    file = tmp_path / "vae.yaml"
    file.write_text("seed: 1\noptim: {lr: 0.5, warmup: 0.25}\n")
    code, out, _ = kinema(
        "train", "vae", "-c", str(file), "vae.num_blocks=3", "optim.lr=1e-2", "--seed", "9", "--print-config"
    )
    config = yaml.safe_load(out)
    assert code == 0
    assert (config["seed"], config["optim"]["lr"], config["optim"]["warmup"]) == (9, 0.01, 0.25)
    assert config["vae"] == {"name": "causal3d", "num_blocks": 3}


def test_a_world_is_made(kinema, tmp_path):
    code, out, _ = kinema("data", "make-world", str(tmp_path / "world"), "--clips", "3", "--seed", "1")
    assert code == 0 and "wrote 3 clips" in out
    assert len((tmp_path / "world" / "manifest.jsonl").read_text().splitlines()) == 3


def test_evaluate_vae_takes_the_model_and_the_data_by_place(kinema):
    code, out, err = kinema("evaluate", "vae", "models/other", "--data", "clips", "tile=64", "--print-config")
    config = yaml.safe_load(out)
    assert (code, err) == (0, "")
    assert config["model"] == "models/other" and config["tile"] == 64
    assert config["data"]["path"] == "clips" and config["data"]["name"] == "manifest"
    code, out, err = kinema("evaluate", "--data", "clips", "clips=3", "--print-config")
    assert code == 0 and yaml.safe_load(out)["data"]["path"] == "clips" and "processes" in yaml.safe_load(out)


def test_evaluate_vae_without_a_model(kinema):
    code, _, err = kinema("evaluate", "vae", "nowhere")
    assert code == 2 and err.count("\n") == 1 and "nowhere" in err
