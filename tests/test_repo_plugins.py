"""A stranger's package, installed by pip beside ours: found by name, its origin told, built; and two that clash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugins" / "acme-video-vae"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """acme-video-vae in a folder of its own, which leaves the environment as it is."""
    target = tmp_path_factory.mktemp("acme")
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", target, PLUGIN], check=True)
    return target


@pytest.fixture(scope="module")
def rival(tmp_path_factory) -> Path:
    """Another distribution that claims the name `acme`, as installed metadata."""
    target = tmp_path_factory.mktemp("rival")
    metadata = target / "rival_vae-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rival-vae\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[kinema.vae]\nacme = rival_vae:RivalVAE\n")
    return target


def run(command: list[str | Path], *folders: Path) -> subprocess.CompletedProcess[str]:
    """Run with `folders` on the path, as if what is in them were installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "COLUMNS": "200"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def python(code: str, *folders: Path) -> object:
    """What a fresh process prints as JSON."""
    done = run([sys.executable, "-c", code], *folders)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plugin_is_listed_with_its_origin_before_it_is_imported(installed):
    code = """
import json, sys
from kinema_core import vaes
print(json.dumps([vaes.names(), vaes.origin("acme"), "acme_video_vae" in sys.modules]))
"""
    names, origin, imported = python(code, installed)
    assert "acme" in names and "causal3d" in names
    assert origin[0] == "acme-video-vae" and not imported
    assert "acme" not in python("import json\nfrom kinema_core import vaes\nprint(json.dumps(vaes.names()))")


def test_a_plugin_is_built_by_name_and_works(installed):
    code = """
import json, torch
from kinema_core import VideoVAE, vaes
vae = vaes.build({"name": "acme"}).eval()
st = vae.stride[0]
with torch.no_grad():
    z = vae.encode(torch.zeros(1, 3, 1 + st, 32, 32))
    size = vae.decode(z, size=(32, 32)).shape
print(json.dumps([isinstance(vae, VideoVAE), z.shape[1] == vae.latent_channels, list(size), st]))
"""
    is_vae, has_channels, size, st = python(code, installed)
    assert is_vae and has_channels and size == [1, 3, 1 + st, 32, 32]


def test_a_plugin_passes_its_own_contract_tests(installed):
    done = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", PLUGIN / "tests"], installed)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_two_distributions_with_one_name_are_both_named(installed, rival):
    code = """
import json
from kinema_core import vaes
errors = []
for ask in (vaes.get, vaes.origin, lambda name: vaes.build({"name": name})):
    try:
        ask("acme")
    except LookupError as error:
        errors.append(str(error))
print(json.dumps([errors, vaes.clashes(), vaes.get("causal3d").__name__]))
"""
    errors, clashes, other = python(code, installed, rival)
    assert len(errors) == 3 and all("acme-video-vae" in error and "rival-vae" in error for error in errors)
    assert clashes == {"acme": ["acme-video-vae", "rival-vae"]}
    assert other, "the rest goes on"


def test_the_command_lists_the_plugin_and_the_clash(installed, rival):
    kinema = [Path(sys.executable).with_name("kinema"), "components"]
    listed = run(kinema, installed)
    assert listed.returncode == 0 and "acme-video-vae" in listed.stdout, listed.stdout + listed.stderr
    clashing = run(kinema, installed, rival)
    assert "acme-video-vae" in clashing.stdout and "rival-vae" in clashing.stdout
