"""How far a run is, by steps or by the clock, and the learning rate that follows from it."""

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist


class Schedule(pl.Callback):
    """Sets the learning rate from the run's progress, and ends the run.

    Progress in [0, 1] is the larger of steps / max_steps and minutes / max_minutes; minutes count over resumptions.
    All ranks take the first one's, so that they end together.

    Args:
        factor: progress -> factor of the optimiser's learning rate, such as `trapezoid(...)`.
        max_steps: optimiser steps, or None.
        max_minutes: of wall time in training, evaluation left out, or None.
    """

    def __init__(
        self, factor: Callable[[float], float], *, max_steps: int | None = None, max_minutes: float | None = None
    ) -> None:
        self.factor = factor
        self.max_steps = max_steps
        self.max_minutes = max_minutes
        self.seconds = 0.0
        self.progress = 0.0
        self._last = 0.0
        self._rates: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the full learning rates and start the clock."""
        self._rates = [group.setdefault("full_lr", group["lr"]) for group in trainer.optimizers[0].param_groups]
        self._last = time.monotonic()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Set the rate of this step."""
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now
        self.progress = self._agreed(trainer)
        for group, rate in zip(trainer.optimizers[0].param_groups, self._rates, strict=True):
            group["lr"] = rate * self.factor(self.progress)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop after the last step."""
        at_end = self.max_steps is not None and trainer.global_step >= self.max_steps
        trainer.should_stop = trainer.should_stop or at_end or self.progress >= 1

    def pause(self) -> None:
        """Leave the time since the last step out, such as an evaluation's."""
        self._last = time.monotonic()

    def _agreed(self, trainer: pl.Trainer) -> float:
        by_steps = trainer.global_step / self.max_steps if self.max_steps else 0.0
        by_time = self.seconds / 60 / self.max_minutes if self.max_minutes else 0.0
        progress = torch.tensor(min(1.0, max(by_steps, by_time)), device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            dist.broadcast(progress, src=0)
        return progress.item()

    def state_dict(self) -> dict[str, Any]:
        """The seconds trained so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.seconds = state_dict["seconds"]


class ProgressLine(pl.Callback):
    """One line now and then: step, loss, learning rate, how much is done, and how long the rest will take.

    Args:
        schedule: the run's.
        every: seconds between lines.
        write: takes a line.
    """

    def __init__(self, schedule: Schedule, *, every: float = 15.0, write: Callable[[str], None] = print) -> None:
        self.schedule, self.every, self.write = schedule, every, write
        self._written = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Write if it is time."""
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._written < self.every:
            return
        self._written = now
        done = self.schedule.progress
        rest = f"{self.schedule.seconds * (1 - done) / done / 60:.1f} min left" if done else ""
        loss = trainer.callback_metrics.get("train/loss")
        shown = "" if loss is None else f"loss {loss:.4f}"
        self.write(f"step {trainer.global_step}  {shown}  {done:.0%}  {rest}")
