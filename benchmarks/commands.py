"""What benchmarks of trainings share: commands of Kinema in a folder."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


def kinema(folder: Path, *words: str) -> None:
    """Run a command of Kinema in a folder; what it says is shown only if it fails."""
    command = [sys.executable, "-m", "kinema", *words]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kinema {' '.join(words)} failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")


@dataclass(frozen=True)
class Run:
    """What a command took."""

    seconds: float
    bytes: int


def run(folder: Path, *words: str) -> Run:
    """A command of Kinema in a folder; its time and its peak memory."""
    began = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "kinema", *words], cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"kinema {' '.join(words)} failed: {(folder / 'log').read_text()[-2000:]}")
    return Run(time.perf_counter() - began, 1024 * usage.ru_maxrss)
