"""Tests each package on its own: an empty environment with only core beside it, `pip check`, the package's tests.

What a package imports but does not declare, a sibling above all, is missing there. Usage:
`python3 tools/test_packages.py [NAME ...]`, such as `vae dit`; without names all of packages/.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import environments

FOLDER = environments.ROOT / ".venvs"
BASE = FOLDER / "base"  # core and pytest; copied for each package, and left as it is
NO_TESTS_COLLECTED = 5
HEAVY = ("lightning", "pytorch_lightning", "transformers", "mlflow", "open_clip")

# Run inside the environment: nothing of ours but core and the package itself may be importable.
ALONE = """
import importlib.util, sys
present = [name for name in sys.argv[1].split(",") if importlib.util.find_spec(name)]
sys.exit(f"importable although not declared: {present}" if present else 0)
"""
LIGHT = """
import sys, kinema_core
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
sys.exit(f"import kinema_core loads {loaded}" if loaded else 0)
"""


def import_name(folder: Path) -> str:
    """packages/vae -> kinema_vae."""
    return f"kinema_{folder.name}"


def check(folder: Path, others: Sequence[Path]) -> tuple[bool, str]:
    """Install a package beside core, check and test it there; (passed, what was printed)."""
    environment = FOLDER / folder.name
    start = time.monotonic()
    environments.copy(BASE, environment)
    environments.install(environment, environments.with_tests(folder))
    environments.repair_torchvision(environment)
    installed = time.monotonic() - start
    python = environments.python_of(environment)
    absent = [import_name(other) for other in others if other.name not in (folder.name, "core")]
    lines = [f"== {folder.name}: installed in {installed:.0f} s"]
    # Two packages at a time, so one thread each.
    surroundings = {"OMP_NUM_THREADS": "1"} | os.environ
    # -P: the working folder is no place to import from.
    for command in (
        [python, "-m", "pip", "check"],
        [python, "-P", "-c", ALONE, ",".join([*absent, "kinema"])],
        [python, "-P", "-c", LIGHT, ",".join(HEAVY)],
        [python, "-P", "-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", folder / "tests"],
    ):
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=surroundings
        )
        lines += [done.stdout.strip()] if done.stdout.strip() else []
        if done.returncode:
            return False, "\n".join([*lines, f"== {folder.name}: FAILED"])
    shutil.rmtree(environment)  # kept after a failure, to look into
    return True, "\n".join([*lines, f"== {folder.name}: passed in {time.monotonic() - start:.0f} s"])


def main(names: Sequence[str]) -> int:
    """Check the named packages, two at a time; the exit status."""
    every = [folder for folder in environments.packages() if folder.parent.name == "packages"]
    unknown = set(names) - {folder.name for folder in every}
    if unknown:
        print(f"no package {', '.join(sorted(unknown))}; there are {', '.join(f.name for f in every)}")
        return 2
    shutil.rmtree(FOLDER, ignore_errors=True)
    environments.create(BASE)
    environments.install(BASE, environments.with_tests(every[0]))
    failed = []
    chosen = [folder for folder in every if folder.name in names or not names]
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = pool.map(lambda folder: check(folder, every), chosen)
        for folder, (passed, printed) in zip(chosen, results, strict=True):
            print(printed, flush=True)
            if not passed:
                failed.append(folder.name)
    if not failed:
        shutil.rmtree(FOLDER)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} packages pass alone; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
