"""A run's folder `runs/<own run id>/`: who may write to it, and where training goes on from."""

import fcntl
import os
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from kinema.checkpoint import is_whole, newest_checkpoint, trainer_file
from kinema.components import check_state
from kinema.errors import ConfigError, UserError


@dataclass(frozen=True)
class Run:
    """One training, over all its resumptions.

    Attributes:
        id: ours, unlike the tracker's known from the start; the name of the folder.
        folder: holds checkpoints, metrics, images and videos.
        resumed_from: the checkpoint that training goes on from, or None for a fresh start.
    """

    id: str
    folder: Path
    resumed_from: Path | None = None
    _lock: int | None = field(default=None, repr=False)

    @property
    def checkpoint_path(self) -> str | None:
        """What `trainer.fit(ckpt_path=...)` takes; None for a fresh start."""
        return None if self.resumed_from is None else str(trainer_file(self.resumed_from))

    def check(self, module: nn.Module) -> None:
        """Before `trainer.fit`: refuse to resume `module` from a checkpoint of another architecture.

        Raises:
            ConfigError: lists the keys that differ.
        """
        # A sharded checkpoint is a directory, which only the strategy can read.
        if self.resumed_from is not None and trainer_file(self.resumed_from).is_file():
            path = trainer_file(self.resumed_from)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
            check_state(state, module, source=str(self.resumed_from))

    def close(self) -> None:
        """Let another process have the run; the end of this process does too."""
        if self._lock is not None:
            os.close(self._lock)


def open_run(kind: str, *, root: str | Path = "runs", run_id: str | None = None, resume: str | None = None) -> Run:
    """Begin a run or go on with one, and keep other processes out of its folder.

    Args:
        kind: such as "dit": part of the id, and what `resume="auto"` looks for.
        root: folder of all runs.
        run_id: a fixed id; by default one is made from kind and time.
        resume: None starts afresh. "auto" goes on from the newest whole checkpoint of `run_id` (of the newest run of
            this kind without one), and starts afresh if there is none. Otherwise the path of a checkpoint or a run.

    Raises:
        UserError: nothing to resume at the path, a fresh run that exists, or a run in use by another process.
    """
    root = Path(root)
    if run_id is not None and not re.fullmatch(r"[\w][\w.-]*", run_id):
        raise ConfigError(f"run id {run_id!r} has to be letters, digits, '-', '_' and '.'")
    checkpoint = _checkpoint_at(resume) if resume not in (None, "auto") else None
    if resume == "auto":
        candidates = [root / run_id] if run_id else _newest_first(root, kind)
        checkpoint = next((found for folder in candidates if (found := newest_checkpoint(folder))), None)
    if checkpoint is not None and run_id is None:
        folder = checkpoint.parent
    else:
        # Another id than the checkpoint's: a branch, in a folder of its own.
        folder = root / (run_id or new_run_id(kind))
    if resume is None and newest_checkpoint(folder):
        raise UserError(f"{folder} has checkpoints already; resume it with --resume auto, or choose another run id")
    return Run(folder.name, folder, checkpoint, _locked(folder))


def new_run_id(kind: str) -> str:
    """An id that sorts by time: dit-20260131-142501-9f3a."""
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _newest_first(root: Path, kind: str) -> list[Path]:
    return sorted((folder for folder in root.glob(f"{kind}-*") if folder.is_dir()), reverse=True)


def _checkpoint_at(path: str) -> Path:
    folder = Path(path)
    checkpoint = folder if is_whole(folder) else newest_checkpoint(folder)
    if checkpoint is None:
        raise UserError(f"there is no whole checkpoint at {path}; --resume auto starts afresh where there is none")
    return checkpoint


@rank_zero_only
def _locked(folder: Path) -> int:
    """Take the folder's lock for the life of this process; only the rank that writes does."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{folder} is in use by another process; wait for it or choose another run id") from None
    return handle
