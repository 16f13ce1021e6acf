"""Commands of Kinema as stages of something larger: each a process of its own with a log, some side by side."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kinema.errors import UserError


class Stages:
    """Runs commands in a folder, some side by side, and keeps their times.

    Args:
        folder: working folder of the commands.
        seed: given to each.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.times: dict[str, dict[str, float]] = {}
        (folder / "logs").mkdir(exist_ok=True)

    def run(self, commands: Mapping[str, Sequence[str]], *, seeded: bool = True) -> None:
        """Run these commands at once and wait for all.

        Raises:
            UserError: one failed.
        """
        name = " + ".join(commands)
        print(f"{name} ...", flush=True)
        began, used = time.monotonic(), _cpu_seconds()
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for key, command in commands.items():
                running[key] = self._start(key, command, seeded)
            failed = [key for key, process in running.items() if process.wait() != 0]
        except BaseException:
            for process in running.values():  # none goes on alone; a training saves first
                process.terminate()
            for process in running.values():
                process.wait()
            raise
        self.times[name] = {
            "minutes": (time.monotonic() - began) / 60,
            "cpu_minutes": (_cpu_seconds() - used) / 60,
        }
        if failed:
            raise UserError(
                f"the stage {failed[0]!r} failed; see {self._log(failed[0])}: {_last_line(self._log(failed[0]))}"
            )
        minutes = self.times[name]
        print(f"    {minutes['minutes']:.1f} min, {minutes['cpu_minutes']:.1f} CPU-minutes", flush=True)

    def _start(self, key: str, command: Sequence[str], seeded: bool) -> subprocess.Popen[bytes]:
        seed = [f"--seed={self.seed}"] if seeded else []
        # Idle threads that spin would take a core from the process beside them.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        with self._log(key).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "kinema", *command, *seed],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which ends the others
            )

    def _log(self, key: str) -> Path:
        return self.folder / "logs" / f"{key.replace(' ', '_')}.log"


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"
