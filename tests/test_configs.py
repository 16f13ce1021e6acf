"""Every YAML file that is shipped loads against its schema, and its components can be built."""

from importlib.resources import files

import kinema_core
import pytest
from kinema.components import build, derived_widths
from kinema.config import load_config, validate_components
from kinema.training.settings import CLIPTraining, DiTTraining, VAETraining

DEMO = files("kinema").joinpath("configs", "demo")
SCHEMAS = {"vae": VAETraining, "clip": CLIPTraining, "dit": DiTTraining}


def test_no_shipped_file_is_forgotten():
    assert {path.name.removesuffix(".yaml") for path in DEMO.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_says_what_it_trains_and_loads(name):
    path = DEMO.joinpath(f"{name}.yaml")
    assert path.read_text().startswith("# ") and f"kinema train {name}" in path.read_text()
    config = load_config(SCHEMAS[name], str(path))
    validate_components(config)


def test_the_demos_components_fit_together():
    vae = build(kinema_core.vaes, load_config(VAETraining, str(DEMO.joinpath("vae.yaml"))).vae)
    config = load_config(DiTTraining, str(DEMO.joinpath("dit.yaml")))
    text = [build(kinema_core.text_encoders, node) for node in config.text.values()]
    dit = build(kinema_core.dits, config.dit, **derived_widths(vae, text))
    assert sum(p.numel() for p in dit.parameters()) < 4e6
    build(kinema_core.diffusions, config.diffusion)
