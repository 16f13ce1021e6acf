"""What benchmarks of trainings share: commands of Kinema in a folder."""

import subprocess
import sys
from pathlib import Path


def kinema(folder: Path, *words: str) -> None:
    """Run a command of Kinema in a folder; what it says is shown only if it fails."""
    command = [sys.executable, "-m", "kinema", *words]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kinema {' '.join(words)} failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")
