"""Every entry point of every pyproject.toml is installed, and is what its group promises; listing them stays light."""

import inspect
import json
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import kinema_core
import pytest
from kinema_core import Registry

ROOT = Path(__file__).parent.parent
REGISTRIES = {value.group: value for value in vars(kinema_core).values() if isinstance(value, Registry)}
PROJECTS = {
    (project := tomllib.loads(path.read_text())["project"])["name"]: project
    for path in [*ROOT.glob("packages/*/pyproject.toml"), ROOT / "apps" / "pyproject.toml"]
}
DECLARED = [
    (dist, group, name, target)
    for dist, project in sorted(PROJECTS.items())
    for group, points in project.get("entry-points", {}).items()
    for name, target in points.items()
]
HEAVY = ["lightning", "pytorch_lightning", "transformers", "mlflow", "open_clip", "diffusers", "torchvision"]


def test_there_is_a_registry_for_each_kind():
    kinds = "vae dit text image captioner prompter diffusion sampler guidance dataset features metric".split()
    assert sorted(REGISTRIES) == sorted(f"kinema.{kind}" for kind in kinds)


@pytest.mark.parametrize("dist", PROJECTS)
def test_installed_entry_points_are_those_of_the_checkout(dist):
    installed = {(p.group, p.name, p.value) for p in distribution(dist).entry_points if p.group.startswith("kinema.")}
    declared = {(group, name, target) for owner, group, name, target in DECLARED if owner == dist}
    assert installed == declared, "stale: run `make env`"


@pytest.mark.parametrize(("dist", "group", "name", "target"), DECLARED, ids=str)
def test_entry_point_is_a_component(dist, group, name, target):
    registry = REGISTRIES[group]
    component = registry.get(name)
    assert issubclass(component, registry.interface) and not inspect.isabstract(component)
    assert registry.origin(name) == (dist, PROJECTS[dist]["version"])
    reserved = {"name", "weights"} & registry.parameters(name).keys()
    assert not reserved, f"{name} takes {reserved}, which a config keeps for itself"


def test_no_name_is_claimed_twice():
    assert {group: registry.clashes() for group, registry in REGISTRIES.items() if registry.clashes()} == {}


def loaded_after(code: str) -> list[str]:
    """Which of HEAVY a fresh process holds after `code`."""
    script = f"{code}\nimport json, sys\nprint('\\n' + json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_core_and_listing_every_registry_is_light():
    code = """
import kinema_core
for value in list(vars(kinema_core).values()):
    if isinstance(value, kinema_core.Registry):
        assert value.clashes() == {} and [value.origin(name) for name in value.names()] is not None
"""
    assert loaded_after(code) == []


def test_kinema_components_is_light():
    code = """
import sys
sys.argv = ["kinema", "components"]
from kinema.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
"""
    assert loaded_after(code) == []
