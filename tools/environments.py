"""Virtual environments of this checkout: making one, installing under constraints.txt, mending torchvision."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
MISSING_OPERATORS = "operator torchvision::nms does not exist"


def packages() -> list[Path]:
    """The folders of all packages in dependency order: core, the six around it by name, the apps."""
    core = ROOT / "packages" / "core"
    siblings = sorted(p.parent for p in core.parent.glob("*/pyproject.toml") if p.parent != core)
    return [core, *siblings, *(p.parent for p in ROOT.glob("apps/pyproject.toml"))]


def with_tests(folder: Path) -> str:
    """What pip is given for a package and what its tests need."""
    return f"{folder}[test]"


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def create(environment: Path) -> None:
    """Make an empty virtual environment with pip, or leave the one that works."""
    if sys.version_info < (3, 11):  # noqa: UP036  any python3 may start these tools
        sys.exit(f"Kinema needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")
    if not python_of(environment).exists():
        venv.create(environment, with_pip=True, clear=environment.exists())


def copy(source: Path, target: Path) -> None:
    """Copy an environment by hard links: a gigabyte of torch in a second and in no disk space."""
    shutil.copytree(source, target, symlinks=True, copy_function=os.link)


def install(environment: Path, *arguments: str | Path) -> None:
    """`pip install` under constraints.txt; shows its progress to a person, its errors to a log."""
    command = [python_of(environment), "-m", "pip", "install", "--disable-pip-version-check", "-c", CONSTRAINTS]
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    subprocess.run([*command, *quiet, *arguments], check=True, cwd=ROOT)


def repair_torchvision(environment: Path) -> None:
    """Let `import torchvision` work where torch has none of its compiled operators (see _kinema_torchvision.py).

    Raises:
        RuntimeError: the import fails although the operators are declared.
    """
    python = python_of(environment)
    query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip())
    module, starter = site / "_kinema_torchvision.py", site / "_kinema_torchvision.pth"
    # Taken out first: beside a torch that has the operators, declaring them twice is an error.
    starter.unlink(missing_ok=True)
    if MISSING_OPERATORS not in _import_error(python):
        return
    shutil.copyfile(Path(__file__).with_name(module.name), module)
    starter.write_text("import _kinema_torchvision\n")
    error = _import_error(python)
    if error:
        raise RuntimeError(f"torchvision cannot be imported in {environment}:\n{error}")


def _import_error(python: Path) -> str:
    return subprocess.run([python, "-c", "import torchvision"], check=False, capture_output=True, text=True).stderr
