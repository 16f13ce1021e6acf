"""Model folders: what was saved comes back, and nothing else is taken for one."""

import warnings

import fsspec
import pytest
import torch
import yaml
from kinema_core import Conditioning, Ragged, diffusions, dits, guidances, samplers, text_encoders, vaes

from kinema.components import build, derived_widths
from kinema.errors import ConfigError
from kinema.model_folder import load_model, model_hash, save_model

NODES = {
    "vae": {"name": "causal3d", "latent_channels": 4, "unshuffle": (1, 4, 4), "widths": [8]},
    "text.main": {"name": "tiny", "width": 16, "num_heads": 2, "weights": "elsewhere.safetensors"},
    "text.second": {"name": "tiny", "width": 24, "num_heads": 2},
    "dit": {"name": "video_dit", "width": 48, "depth": 1, "num_heads": 2},
    "diffusion": {"name": "flow"},
    "sampler": {"name": "sdedit", "base": {"name": "euler"}, "strength": 0.3},
    "guidance": {"name": "cfg", "scale": 3.0},
}


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    registries = {"vae": vaes, "diffusion": diffusions, "sampler": samplers, "guidance": guidances}
    built = {key: build(registries[key], NODES[key]) for key in registries}
    text = [
        build(text_encoders, {k: v for k, v in NODES[key].items() if k != "weights"})
        for key in ("text.main", "text.second")
    ]
    built |= {"text.main": text[0], "text.second": text[1]}
    built["dit"] = build(dits, NODES["dit"], **derived_widths(built["vae"], text, clip_widths={"camera": 3}))
    for module in (built["vae"], *text, built["dit"]):
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    built["vae"].set_whitening(torch.arange(4.0), torch.full((4,), 2.0))
    return {key: (NODES[key], built[key]) for key in NODES}


@pytest.fixture
def folder(tmp_path, parts):
    return save_model(
        tmp_path / "model", parts, facts={"steps": 7, "data": ["a"]}, derived={"clip_widths": {"camera": 3}}
    )


def edited(folder, change):
    content = yaml.safe_load((folder / "kinema.yaml").read_text())
    change(content)
    (folder / "kinema.yaml").write_text(yaml.safe_dump(content))


def test_the_loaded_model_computes_what_the_saved_one_did(folder, parts):
    model = load_model(folder, require=["vae", "dit", "text"])
    video = torch.rand(1, 3, 2, 8, 8)
    saved_vae, saved_dit = parts["vae"][1].eval(), parts["dit"][1].eval()
    assert torch.equal(model.components["vae"].encode(video), saved_vae.encode(video))
    texts = [part[1].eval()(["a", "bb"]) for part in (parts["text.main"], parts["text.second"])]
    loaded = [encoder(["a", "bb"]) for encoder in model.of_kind("text")]
    for before, after in zip(texts, loaded, strict=True):
        assert torch.equal(before.tokens, after.tokens)
    x = Ragged.from_clips([torch.randn(4, 1, 2, 2), torch.randn(4, 2, 2, 4)])
    cond = Conditioning(tuple(texts), clips={"camera": torch.randn(2, 3)})
    noise = torch.full((len(x.values),), 0.5)
    assert torch.equal(model.components["dit"](x, noise, cond), saved_dit(x, noise, cond))
    assert model.components["sampler"] == parts["sampler"][1]
    assert model.components["guidance"] == parts["guidance"][1]
    assert list(model.components) == list(NODES)
    assert model.facts == {"steps": 7, "data": ["a"]}
    assert not any(module.training for module in model.of_kind("vae") + model.of_kind("dit"))


def test_settings_over_those_of_the_folder(folder, parts):
    words = ["dit.attention=window", "dit.window=[1,2,2]", "text.second.num_heads=4", "guidance.scale=1.5"]
    model = load_model(folder, settings=[*words, "sampler.name=ddim", "sampler.eta=0.5"])
    assert model.components["dit"].rules and not parts["dit"][1].rules
    assert model.nodes["text.second"]["num_heads"] == 4 and model.nodes["text.main"]["num_heads"] == 2
    assert model.components["guidance"].scale == 1.5
    assert model.components["sampler"] == samplers.build({"name": "ddim", "eta": 0.5})
    assert model.hash == load_model(folder).hash


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dit.name=acme", "dit has weights of 'video_dit', so it cannot be 'acme'"),
        ("dit.atention=window", "atention"),
        ("ditt.depth=2", "ditt is no component of .*dit"),
        ("text.third.width=4", "text.third is no component"),
        ("dit=3", "dit is 3; it has to be a component: write dit.name=3"),
        ("sampler=null", "needs its sampler"),
        ("dit.weights=elsewhere.safetensors", "dit.weights cannot be set"),
        ("dit.width=64", "another architecture: mismatched final_table"),
    ],
)
def test_settings_that_fit_no_component(folder, word, message):
    with pytest.raises(ConfigError, match=message):
        load_model(folder, settings=[word])


def test_the_folder_holds_text_and_safetensors_only_and_every_setting(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    weights = {f"{key}/model.safetensors" for key in ("vae", "text.main", "text.second", "dit")}
    assert names == {"kinema.yaml", *weights}
    content = yaml.safe_load((folder / "kinema.yaml").read_text())
    entry = content["components"]["dit"]
    assert entry["distribution"] == "kinema-dit" and entry["version"].startswith("0.")
    assert entry["settings"]["depth"] == 1 and "patch" in entry["settings"]
    assert "latent_channels" not in entry["settings"]
    assert content["components"]["vae"]["settings"]["latent_channels"] == 4
    assert "weights" not in content["components"]["text.main"]["settings"]


def test_a_url_is_read_like_a_path(folder):
    files = fsspec.filesystem("memory")
    files.put(f"{folder}/", "/kinema-test/model", recursive=True)
    try:
        model = load_model("memory://kinema-test/model")
        assert model.hash == load_model(folder).hash == model_hash("memory://kinema-test/model")
        with pytest.raises(ConfigError, match="memory://kinema-test/nowhere is no model folder: it has no kinema.yaml"):
            load_model("memory://kinema-test/nowhere")
        files.rm("/kinema-test/model/dit/model.safetensors")
        with pytest.raises(ConfigError, match="lacks the weights of dit"):
            load_model("memory://kinema-test/model")
    finally:
        files.rm("/kinema-test", recursive=True)


def test_the_hash_tells_models_apart(tmp_path, folder, parts):
    again = save_model(
        tmp_path / "again", parts, facts={"steps": 7, "data": ["a"]}, derived={"clip_widths": {"camera": 3}}
    )
    assert model_hash(folder) == model_hash(again)
    with torch.no_grad():
        next(parts["dit"][1].parameters()).view(-1)[0] += 1
    other = save_model(tmp_path / "other", parts, facts={"steps": 7, "data": ["a"]})
    assert model_hash(folder) != model_hash(other)


def test_what_is_missing_is_said_in_one_line(tmp_path, folder, parts):
    with pytest.raises(ConfigError, match=r"nowhere is no model folder: it has no kinema.yaml"):
        load_model(tmp_path / "nowhere")
    half = save_model(tmp_path / "half", {"vae": parts["vae"]})
    with pytest.raises(ConfigError, match="half has no dit component; it has vae"):
        load_model(half, require=["vae", "dit"])
    (folder / "dit" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="lacks the weights of dit: there is no dit/model.safetensors"):
        load_model(folder)
    edited(half, lambda content: content["components"]["vae"].update(name="gone", distribution="acme-vae"))
    with pytest.raises(ConfigError, match=r"needs vae 'gone' of acme-vae 0.1.0; install acme-vae"):
        load_model(half)


def test_weights_of_another_architecture_are_refused(tmp_path, parts):
    folder = save_model(tmp_path / "m", {"vae": parts["vae"]})
    edited(folder, lambda content: content["components"]["vae"]["settings"].update(widths=[16]))
    with pytest.raises(ConfigError, match="vae 'causal3d': .* is a checkpoint of another architecture: mismatched"):
        load_model(folder)


@pytest.mark.parametrize(("version", "loads"), [("0.1.99", True), ("0.2.0", False), ("1.1.0", False)])
def test_versions_of_the_same_minor_load(tmp_path, parts, version, loads):
    folder = save_model(tmp_path / "m", {"vae": parts["vae"]})
    edited(folder, lambda content: content["components"]["vae"].update(version=version))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if loads:
            assert load_model(folder)
            return
        message = rf"saved by kinema-vae {version}, but kinema-vae 0\.1\.0 is installed"
        with pytest.raises(ConfigError, match=message + "; install kinema-vae"):
            load_model(folder)
    with pytest.warns(UserWarning, match=message):
        assert load_model(folder, check_versions=False)


def test_saving_replaces_a_model_and_nothing_else(tmp_path, folder, parts):
    save_model(folder, {"vae": parts["vae"]})
    assert list(load_model(folder).components) == ["vae"]
    assert not (folder / "dit").exists()
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match="photos exists and is no model folder"):
        save_model(tmp_path / "photos", parts)
    with pytest.raises(ConfigError, match="'video' is no kind of component"):
        save_model(folder, {"vae": parts["vae"], "video": parts["vae"]})
    assert list(load_model(folder).components) == ["vae"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "photos"]


@pytest.mark.parametrize("key", ["vae/../../x", "../vae", "/vae", "video"])
def test_a_folder_cannot_point_outside_itself(tmp_path, parts, key):
    folder = save_model(tmp_path / "m", {"vae": parts["vae"]})
    edited(folder, lambda content: content["components"].update({key: content["components"].pop("vae")}))
    with pytest.raises(ConfigError, match="is no kind of component"):
        load_model(folder)


def test_pickles_and_code_in_the_main_file_are_refused(tmp_path, parts):
    folder = save_model(tmp_path / "m", {"vae": parts["vae"]})
    main = (folder / "kinema.yaml").read_text()
    (folder / "kinema.yaml").write_text(main + "x: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="YAML tags"):
        load_model(folder)
    (folder / "kinema.yaml").write_text(main.replace("format: 1", "format: 2"))
    with pytest.raises(ConfigError, match="model format 2; this version of kinema reads 1"):
        load_model(folder)
