"""Rules that no linter of ours knows: unsafe calls, imports past a package's public names, machine paths, length."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: The seven libraries. The application `kinema` is nobody's library but for the classes that its README names.
PACKAGES = {path.name: path for path in ROOT.glob("packages/*/src/kinema_*")}
CODE = sorted(
    file
    for pattern in (
        "packages/*/src",
        "packages/*/tests",
        "apps/src",
        "apps/tests",
        "tests",
        "tools",
        "benchmarks",
        "docs",
    )
    for folder in ROOT.glob(pattern)
    for file in folder.rglob("*.py")
)
#: What ships or runs; tests may pickle what they themselves made.
SHIPPED = [file for file in CODE if "tests" not in file.parts]
MAX_LINES = 400
BANNED_KEYWORDS = {"weights_only": "False", "allow_pickle": "True", "shell": "True", "trust_remote_code": "True"}
BANNED_FUNCTIONS = re.compile(r"eval|exec|os\.system|yaml\.unsafe_load|(c?[pP]ickle|dill|joblib|marshal)\.loads?")


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def place(file: Path, node: ast.AST) -> str:
    return f"{file.relative_to(ROOT)}:{node.lineno}"


def safe_loaders(module: ast.Module) -> set[str]:
    """Names of YAML's safe loader and of the classes a module derives from it."""
    classes = [node for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    derived = {c.name for c in classes if any(ast.unparse(base).endswith("SafeLoader") for base in c.bases)}
    return derived | {"yaml.SafeLoader", "yaml.CSafeLoader"}


def unsafe_calls(module: ast.Module) -> list[tuple[ast.Call, str]]:
    """Calls that run code from data or from the network, or a command through a shell, each with what is wrong."""
    found = []
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        found += [(call, f"{key}={value}") for key, value in BANNED_KEYWORDS.items() if keywords.get(key) == value]
        if BANNED_FUNCTIONS.fullmatch(name):
            found.append((call, name))
        loader = keywords.get("Loader") or (ast.unparse(call.args[1]) if len(call.args) > 1 else "")
        if name == "yaml.load" and loader not in safe_loaders(module):
            found.append((call, "yaml.load without SafeLoader"))
    return found


def test_no_unsafe_call():
    found = [f"{place(file, call)}: {why}" for file in SHIPPED for call, why in unsafe_calls(tree(file))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(f)",
        "pickle.loads(b)",
        "yaml.load(f)",
        "yaml.load(f, Loader=yaml.Loader)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "eval(s)",
        "subprocess.run(s, shell=True)",
        "AutoModel.from_pretrained(n, trust_remote_code=True)",
        "os.system(s)",
    ],
)
def test_the_rule_knows_unsafe_calls(line):
    assert unsafe_calls(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "yaml.load(f, Loader=yaml.SafeLoader)",
        "torch.load(f, weights_only=True)",
        "json.load(f)",
        "class L(yaml.SafeLoader): ...\nyaml.load(f, L)",
    ],
)
def test_the_rule_lets_safe_calls_pass(line):
    assert not unsafe_calls(ast.parse(line))


@cache
def public_names(module: str) -> frozenset[str]:
    """`__all__` of a package or sub-package; nothing for a plain module, which is its package's own affair."""
    package, *inner = module.split(".")
    file = PACKAGES[package].joinpath(*inner, "__init__.py")
    for node in tree(file).body if file.exists() else ():
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == "__all__" for t in node.targets):
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def past_public_names(node: ast.AST, own: str | None) -> list[str]:
    """What an import statement takes from another of our packages beside its public names."""

    def foreign(module: str) -> bool:
        return module.split(".", maxsplit=1)[0] in PACKAGES.keys() - {own}

    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if foreign(alias.name) and not public_names(alias.name)]
    if not isinstance(node, ast.ImportFrom) or node.level or not foreign(node.module):
        return []
    names = {alias.name for alias in node.names if not public_names(f"{node.module}.{alias.name}")}
    return [f"{node.module}.{name}" for name in sorted(names - public_names(node.module))]


def own_package(file: Path) -> str | None:
    """The package whose source or tests a file belongs to; its own modules are open to it."""
    parts = file.relative_to(ROOT).parts
    return f"kinema_{parts[1]}" if parts[0] == "packages" else None


def test_other_packages_are_imported_by_their_public_names():
    found = [
        f"{place(file, node)}: {', '.join(names)}"
        for file in CODE
        for node in ast.walk(tree(file))
        if (names := past_public_names(node, own_package(file)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("from kinema_core import Ragged", []),
        ("from kinema_core.testing import VAEContract", []),
        ("from kinema_core import testing", []),
        ("import kinema_core", []),
        ("from kinema_core.registry import Registry", ["kinema_core.registry.Registry"]),
        ("from kinema_core import registry", ["kinema_core.registry"]),
        ("from kinema_core.data import _positions", ["kinema_core.data._positions"]),
        ("import kinema_core.data", ["kinema_core.data"]),
    ],
)
def test_the_rule_knows_public_names(line, taken):
    (node,) = ast.parse(line).body
    assert past_public_names(node, own="kinema_vae") == taken
    assert past_public_names(node, own="kinema_core") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_listed_and_have_no_underscore(package):
    names = public_names(package)
    assert names and not [name for name in names if name.startswith("_")]


def test_a_source_file_is_one_idea():
    long = {
        str(f.relative_to(ROOT)): n
        for f in CODE
        if "src" in f.parts and (n := len(f.read_text().splitlines())) >= MAX_LINES
    }
    assert not long, f"files of {MAX_LINES} lines or more: {long}"


def test_no_machine_path_or_registry_host_is_committed():
    # Written in halves, so that this file passes its own test.
    traces = ["/wo" + "rk/", "/opt/py" + "pi", "/opt/whe" + "els", "/root" + "/", "/home" + "/", "pypi" + ".org"]
    traces += ["python" + "hosted.org", "download.py" + "torch.org", "registry.npm" + "js.org", "deb" + "ian.org"]
    pattern = re.compile("|".join(map(re.escape, traces)))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        if file.suffix in {".png", ".mp4", ".gif", ".jpg", ".safetensors"} or not file.is_file():
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{name}:{number}: {match[0]}")
    assert not found, "\n".join(found)
