"""When a training saves: every so many steps or minutes, on SIGUSR1, on SIGTERM (then it ends), and at its end."""

import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from kinema.checkpoint import begin, commit, trainer_file

#: What a process returns that ended on SIGTERM: 128 + 15, so that a launcher knows to start it again.
PREEMPTED = 143


class Checkpointing(Checkpoint):
    """Saves whole checkpoints into a run's folder, and ends cleanly when the machine is taken away.

    A signal only sets a flag; the ranks agree on it after each optimiser step, so that all save the same one.
    (Lightning's own handler broadcasts inside the signal and dead-locks when one rank alone gets it.)
    As a `Checkpoint` of Lightning's it comes after all other callbacks, so that what they do at a step's end is in it.

    Args:
        folder: the run's.
        every_n_steps: optimiser steps between checkpoints; None: not by steps.
        every_minutes: minutes between checkpoints; None: not by time.
        keep: how many to keep.
        facts: goes into each manifest (config hash, tracker's run id, ...).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
        keep: int = 2,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least the newest checkpoint has to be kept")
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.facts = dict(facts or {})
        self._flags = _Flags()
        self._saved_step = -1
        self._saved_at = 0.0
        self._seen_step = 0
        self._group: dist.ProcessGroup | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, and count the time from here."""
        self._seen_step = self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self._flags.listen()
        if trainer.world_size > 1:
            # Flags are on the CPU, whatever the gradients travel by.
            self._group = dist.new_group(backend="gloo")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save if it is time, and exit with 143 after SIGTERM on any rank."""
        before, step = self._seen_step, trainer.global_step
        if step == before:  # amid accumulation: such a checkpoint would lose gradients
            return
        self._seen_step = step
        # Two optimisers count two steps a batch, so a multiple may be stepped over.
        due = self.every_n_steps is not None and step // self.every_n_steps > before // self.every_n_steps
        stop, save_now = self._agreed(trainer)
        if due or save_now or stop:
            self.save(trainer)
        if stop:
            rank_zero_info(f"SIGTERM: saved step {step} to {self.folder}, stopping")
            raise SystemExit(PREEMPTED)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step."""
        if self._saved_step != trainer.global_step:
            self.save(trainer)
        self._flags.restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back. Nothing is saved: the step in flight may be half done."""
        self._flags.restore()

    def save(self, trainer: pl.Trainer) -> None:
        """Save now. All ranks have to call it, at the end of an optimiser step."""
        step = trainer.global_step
        temporary = begin(self.folder, step) if trainer.is_global_zero else None
        temporary = trainer.strategy.broadcast(temporary)
        trainer.save_checkpoint(trainer_file(temporary))  # ends with a barrier
        if trainer.is_global_zero:
            facts = {"world_size": trainer.world_size, **self.facts}
            commit(temporary, step=step, facts=facts, keep=self.keep)
        trainer.strategy.barrier("kinema checkpoint")
        self._saved_step, self._saved_at = step, time.monotonic()

    def _agreed(self, trainer: pl.Trainer) -> tuple[bool, bool]:
        """(stop, save now) if any rank says so."""
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.every_minutes is not None and minutes >= self.every_minutes
        flags = torch.tensor([self._flags.stop, self._flags.save or due], dtype=torch.uint8)
        if self._group is not None:
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
        self._flags.save = False
        return bool(flags[0]), bool(flags[1])


class BatchPosition(pl.Callback):
    """Counts the batches of the optimiser steps that are done, and brings the number back on resume.

    Hand the same object to the trainer and the data module: `train_dataloader` begins at batch `position.batches` of
    an endless order that is a pure function of the seed (of a finite one Lightning would count the end wrong). Batches
    that workers have fetched ahead do not count.
    """

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        """Count."""
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        """{"batches": int}."""
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`; runs before the data module makes its loader."""
        self.batches = state_dict["batches"]


class _Flags:
    """SIGTERM and SIGUSR1 as flags."""

    def __init__(self) -> None:
        self.stop = False
        self.save = False
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread alone
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._raise_flag)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _raise_flag(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.stop = True
        else:
            self.save = True
