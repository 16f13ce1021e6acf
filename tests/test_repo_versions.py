"""What the packages declare of each other and of the outside agrees: ranges, versions, tested versions, files."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path.parent for path in [*ROOT.glob("packages/*/pyproject.toml"), ROOT / "apps" / "pyproject.toml"])
PROJECTS = {folder.name: tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in FOLDERS}
VERSIONS = {project["name"]: project["version"] for project in PROJECTS.values()}
PLUGIN = tomllib.loads((ROOT / "tests/plugins/acme-video-vae/pyproject.toml").read_text())["project"]


def requirements(project: dict, extras: bool = True) -> list[Requirement]:
    declared = list(project["dependencies"])
    for extra in project.get("optional-dependencies", {}).values() if extras else ():
        declared += extra
    return [Requirement(line) for line in declared]


def test_all_eight_distributions_are_there():
    names = {"core", "vae", "dit", "text", "sampling", "data", "metrics"}
    assert VERSIONS.keys() == {"kinema"} | {f"kinema-{name}" for name in names}
    assert PROJECTS["apps"]["name"] == "kinema"


@pytest.mark.parametrize("folder", PROJECTS)
def test_ranges_of_our_own_packages_hold_our_versions_and_have_an_end(folder):
    ours = [r for r in requirements(PROJECTS[folder]) if r.name in VERSIONS]
    for requirement in ours:
        version = VERSIONS[requirement.name]
        assert requirement.specifier.contains(version), f"{requirement} excludes this checkout's {version}"
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, f"{requirement}: write a range with a start and an end"
        next_minor = "{}.{}.0".format(version.split(".")[0], int(version.split(".")[1]) + 1)
        if version.startswith("0."):
            assert not requirement.specifier.contains(next_minor), f"{requirement}: a 0.x minor may break it"


def test_directions_of_dependency():
    for folder, project in PROJECTS.items():
        ours = {r.name for r in requirements(project) if r.name in VERSIONS and r.name != project["name"]}
        expected = {"core": set(), "apps": VERSIONS.keys() - {"kinema"}}.get(folder, {"kinema-core"})
        assert ours == expected, f"{project['name']} depends on {sorted(ours)}"


def test_core_needs_torch_alone():
    assert [r.name for r in requirements(PROJECTS["core"], extras=False)] == ["torch"]


def test_the_plugin_depends_on_core_and_on_no_other_package_of_ours():
    (ours,) = (r for r in requirements(PLUGIN) if r.name in VERSIONS)
    assert ours.name == "kinema-core" and ours.specifier.contains(VERSIONS["kinema-core"])


def test_tested_versions_lie_in_every_declared_range_and_cover_every_dependency():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            pins[canonicalize_name(requirement.name)] = specifier.version
    assert (pins["torch"], pins["torchvision"]) == ("2.13.0", "0.28.0")
    for folder, project in PROJECTS.items():
        for requirement in requirements(project):
            name = canonicalize_name(requirement.name)
            if name in pins:
                assert requirement.specifier.contains(pins[name]), f"{folder}: {requirement} excludes {pins[name]}"
        for requirement in requirements(project, extras=False):
            name = canonicalize_name(requirement.name)
            assert name in pins.keys() | VERSIONS.keys(), f"{folder}: constraints.txt has no version of {name}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_package_has_its_files(folder):
    project = PROJECTS[folder.name]
    (source,) = (folder / "src").glob("kinema*")
    assert source.name == project["name"].replace("-", "_")
    for file in ("README.md", "CHANGELOG.md", f"src/{source.name}/__init__.py", f"src/{source.name}/py.typed"):
        assert (folder / file).exists(), f"{folder.name} has no {file}"
    assert not list(folder.glob("tests/**/__init__.py")), "two packages called tests shadow each other"
    assert list(folder.glob("tests/test_*.py"))
    assert re.search(rf"^## {re.escape(project['version'])}\b", (folder / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project["license"] == "Apache-2.0" and project["requires-python"] == ">=3.11"


def test_test_files_have_names_of_their_own():
    files = [file.name for folder in FOLDERS for file in folder.glob("tests/**/test_*.py")]
    files += [file.name for file in (ROOT / "tests").glob("test_*.py")]
    assert len(files) == len(set(files)), sorted(name for name in set(files) if files.count(name) > 1)


def test_readmes_install_core_first_by_path():
    for folder in FOLDERS:
        lines = re.findall(r"pip install .*", (folder / "README.md").read_text())
        assert lines, f"{folder.name}: the README says nothing of installing"
        if folder.name not in ("core", "apps"):
            assert any(re.search(rf"\./packages/core\S* .*\./packages/{folder.name}\b", line) for line in lines), lines


def test_the_licence_is_there():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
