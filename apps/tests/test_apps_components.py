"""Components: built from nodes, loaded, described; with distributions made on disk as pip would."""

import subprocess
import sys
import textwrap

import pytest
import torch
from kinema_core import refresh, samplers, text_encoders, vaes
from safetensors.torch import save_file

from kinema.components import build, check, derived_widths, describe, get, listing, load_weights, origins
from kinema.errors import ConfigError

SMALL = {"name": "causal3d", "latent_channels": 4, "unshuffle": [1, 4, 4], "widths": [8]}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution with one entry point, as files on sys.path."""

    def install(dist, group, name, target, code=None):
        folder = tmp_path / f"{dist.replace('-', '_')}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
        if code is not None:
            (tmp_path / f"{target.split(':')[0]}.py").write_text(textwrap.dedent(code))
        refresh()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield install
    monkeypatch.undo()
    refresh()


def test_a_node_is_built_with_its_values_fitted():
    vae = build(vaes, SMALL)
    assert vae.latent_channels == 4 and vae.stride == (1, 4, 4)
    sampler = build(samplers, {"name": "sdedit", "base": {"name": "euler"}, "strength": "5e-1"})
    assert sampler.strength == 0.5 and type(sampler.base) is samplers.get("euler")
    assert check(vaes, SMALL)["unshuffle"] == (1, 4, 4)


def test_a_constructors_refusal_is_a_config_error():
    with pytest.raises(ConfigError, match=r"^vae: .*-1"):
        build(vaes, {**SMALL, "num_blocks": -1})
    with pytest.raises(ConfigError, match="dit.* needs a value for latent_channels"):
        from kinema_core import dits

        build(dits, {"name": "video_dit"})


def test_a_node_without_a_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"text.main needs a name \(text.main.name=...\); known are .*tiny"):
        check(text_encoders, {"width": 3}, where="text.main")


def test_weights_are_loaded_or_refused_with_the_keys_that_differ(tmp_path):
    torch.manual_seed(0)
    vae = build(vaes, SMALL)
    state = vae.state_dict()
    path = tmp_path / "vae.safetensors"
    save_file(state, path)
    for source in (str(path), path.as_uri()):
        again = build(vaes, {**SMALL, "weights": source})
        assert all(torch.equal(state[key], value) for key, value in again.state_dict().items())

    with pytest.raises(ConfigError, match=r"vae 'causal3d': .*another architecture: mismatched .* instead of "):
        build(vaes, {**SMALL, "widths": [16], "weights": str(path)})
    with pytest.raises(ConfigError, match=r"another architecture: missing .* and \d+ more"):
        build(vaes, {**SMALL, "num_blocks": 3, "weights": str(path)})
    save_file({**state, "stray": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="another architecture: unexpected stray"):
        build(vaes, {**SMALL, "weights": str(path)})


def test_files_that_are_no_weights_are_refused(tmp_path):
    vae = build(vaes, SMALL)
    whole = tmp_path / "a.safetensors"
    save_file(vae.state_dict(), whole)
    whole.write_bytes(whole.read_bytes()[:-10])
    torch.save({"x": 1}, tmp_path / "b.pt")
    for path, message in {
        str(whole): "no whole safetensors file",
        str(tmp_path / "b.pt"): "from .safetensors files only",
        str(tmp_path / "c.safetensors"): "there are no weights at",
        (tmp_path / "c.safetensors").as_uri(): "there are no weights at",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_weights(vae, path, where="vae")


def test_two_distributions_with_one_name_are_refused_and_listed(installed):
    installed("acme-one", "kinema.vae", "shared", "acme_one:VAE")
    installed("acme-two", "kinema.vae", "shared", "acme_two:VAE")
    with pytest.raises(ConfigError, match="'shared' is claimed by acme-one and acme-two"):
        build(vaes, {"name": "shared"})
    assert ("vae", "shared", "acme-one and acme-two", "clash") in listing()


def test_a_component_that_cannot_be_imported_is_named_and_hurts_no_other(installed):
    installed("acme-broken", "kinema.vae", "broken", "acme_broken:VAE", "raise OSError('libacme.so is missing')")
    with pytest.raises(ConfigError, match=r"vae 'broken' of acme-broken 1.2 cannot be imported: OSError: libacme"):
        get(vaes, "broken")
    assert get(vaes, "causal3d")
    assert ("vae", "broken", "acme-broken", "1.2") in listing()


def test_an_object_that_is_no_vae_is_refused(installed):
    installed("acme-wrong", "kinema.vae", "wrong", "acme_wrong:VAE", "class VAE: pass")
    with pytest.raises(ConfigError, match="not a VideoVAE"):
        get(vaes, "wrong")


def test_a_component_is_described_from_its_constructor(installed):
    code = """
        from kinema_core import Sampler

        class Custom(Sampler):
            '''Takes steps.

            Args:
                order: of the solver,
                    from 1.
                base: another.
            '''

            def __init__(self, *, order: int = 2, base: Sampler | None = None, clip_widths: dict = {}): ...
            def __call__(self, *args, **kwargs): ...
    """
    installed("acme-sampler", "kinema.sampler", "custom", "acme_sampler:Custom", code)
    (found,) = describe("custom")
    assert (found.kind, found.distribution, found.version, found.summary) == (
        "sampler",
        "acme-sampler",
        "1.2",
        "Takes steps.",
    )
    rows = [(s.key, s.type, s.default, s.meaning) for s in found.settings]
    assert rows == [
        ("order", "int", "2", "of the solver, from 1."),
        ("base", "kinema_core.interfaces.Sampler | None", "None", "another."),
    ]
    with pytest.raises(ConfigError, match="no component is named 'cusom'.*did you mean 'custom'"):
        describe("cusom")


def test_every_component_of_ours_can_be_described():
    ours = {(kind, name) for kind, name, dist, _ in listing() if dist.startswith("kinema-")}
    assert {("vae", "causal3d"), ("dit", "video_dit"), ("text", "tiny"), ("diffusion", "flow")} <= ours
    for kind, name in ours:
        found = {description.kind: description for description in describe(name)}[kind]
        assert found.summary
        assert all(setting.meaning for setting in found.settings), (kind, name, found.settings)


def test_origins_are_tags():
    assert origins({"text.main": ("text", "tiny")})["component.text.main"].startswith("tiny kinema-text 0.")


def test_widths_are_read_off_the_built_components():
    vae, text = build(vaes, SMALL), build(text_encoders, {"name": "tiny", "width": 16})
    assert derived_widths(vae, [text], cell_widths={"action": 3}) == {
        "latent_channels": 4,
        "text_widths": (16,),
        "pooled_widths": (text.pooled_width,),
        "cell_widths": {"action": 3},
        "clip_widths": {},
    }


def test_listing_imports_no_component():
    code = "import sys; from kinema.components import listing; assert listing(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "kinema_vae",
        "kinema_dit",
        "kinema_text",
        "kinema_data",
        "open_clip",
        "lightning",
        "mlflow",
        "transformers",
    }
    assert not heavy & set(loaded)
