"""What all studies share: trainings side by side, cells of figures that are kept as soon as they are known, a record.

So that a study can be stopped at any time: when it is called again, it goes on from the newest checkpoints and from the
first cell that is not kept.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from kinema.errors import UserError
from kinema.mlflow_store import default_uri
from kinema.stages import Stages
from kinema.tracking import MlflowTracker

Figures = dict[str, float]

#: Of the steps of a training, from its end, over which its loss is averaged.
SMOOTHED = 0.2


@dataclass(frozen=True)
class Cell:
    """What is to be measured.

    Attributes:
        measure: called once.
        cost: beside that of other cells, for the estimate of time.
    """

    measure: Callable[[], Figures]
    cost: float = 1.0


class Results:
    """Figures by cell, in a file that is written anew after each cell.

    Args:
        file: made at once, since what is trained before the first cell depends on the settings too.
        settings: what all cells depend on.
        facts: written beside them, not compared.

    Raises:
        UserError: the file is of a study with other settings, or its folder holds something that is no study.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> None:
        self.file, self.settings, self.facts = file, dict(settings), dict(facts or {})
        self.cells: dict[str, Figures] = {}
        if file.is_file():
            content = json.loads(file.read_text())
            other = {k: (content["settings"].get(k), v) for k, v in settings.items() if content["settings"].get(k) != v}
            if other:
                listed = ", ".join(f"{key} {before} and not {now}" for key, (before, now) in other.items())
                raise UserError(f"{file} is of a study with {listed}; name another folder with --out")
            self.cells = content["cells"]
        elif file.parent.exists() and any(file.parent.iterdir()):
            raise UserError(f"{file.parent} is not empty and holds no study; name another folder with --out")
        file.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def fill(self, cells: Mapping[str, Cell], *, shown: Sequence[str] = ()) -> None:
        """Measure the cells that are not kept yet, with a line each: its `shown` figures and the time left."""
        left = {key: cell for key, cell in cells.items() if key not in self.cells}
        if len(left) < len(cells):
            print(f"{len(cells) - len(left)} of {len(cells)} cells are measured already", flush=True)
        began, rest = time.monotonic(), sum(cell.cost for cell in left.values())
        whole = rest
        for number, (key, cell) in enumerate(left.items(), len(cells) - len(left) + 1):
            self.cells[key] = cell.measure()
            self._write()
            rest -= cell.cost
            minutes = (time.monotonic() - began) / 60 * rest / (whole - rest)
            figures = ", ".join(f"{name} {self.cells[key][name]:.3g}" for name in shown if name in self.cells[key])
            print(f"[{number}/{len(cells)}] {key}: {figures}; {minutes:.1f} min left", flush=True)

    def _write(self) -> None:
        temporary = self.file.with_suffix(f".{os.getpid()}.tmp")
        content = {"settings": self.settings, **self.facts, "cells": self.cells}
        temporary.write_text(json.dumps(content, indent=1))
        temporary.replace(self.file)


def train_side_by_side(folder: Path, commands: Mapping[str, Sequence[str]], minutes: float) -> None:
    """Train the models that are not whole yet, two at a time, so that all have equal compute.

    One that was stopped goes on from its newest checkpoint. All are recorded where the study is.

    Args:
        folder: of the models, and of their logs and runs.
        commands: of `kinema`, on one thread each, by the name of the model, which is `models/NAME` in the folder.
        minutes: of each.

    Raises:
        UserError: a training failed; its log is named.
    """
    left = [name for name in commands if not (folder / model_path(name) / "kinema.yaml").is_file()]
    if len(left) < len(commands):
        print(f"{len(commands) - len(left)} of {len(commands)} models are trained already", flush=True)
    if not left:
        return
    stages = Stages(folder.resolve(), 0)
    record = [] if os.environ.get("MLFLOW_TRACKING_URI") else [f"run.tracking_uri={default_uri()}"]
    for start in range(0, len(left), 2):
        pairs = (len(left) - start + 1) // 2
        print(f"{len(left) - start} models to train; at least {pairs * minutes:.1f} min left", flush=True)
        own = {name: [f"run.out={model_path(name)}", f"run.id={name}", "--resume=auto"] for name in left}
        chosen = left[start : start + 2]
        stages.run({name: [*commands[name], *own[name], *record] for name in chosen}, seeded=False)


def model_path(name: str) -> str:
    """Of a trained model, in the study's folder."""
    return f"models/{name}"


def training_figures(folder: Path, name: str) -> Figures:
    """The steps of a training and its loss, the mean over the last fifth of them, from the run's own record."""
    events = [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    metrics = [event for event in events if event["kind"] == "metric"]
    steps = max((event["step"] for event in metrics), default=0)
    # A training that went on from a checkpoint took some steps twice; the later ones are the model's.
    losses = {event["step"]: event["value"] for event in metrics if event["key"] == "train/loss"}
    if not losses:
        raise UserError(
            f"{folder / model_path(name)} took too few steps for a loss; give more minutes, in another --out"
        )
    late = [value for step, value in losses.items() if step >= (1 - SMOOTHED) * steps or step == max(losses)]
    return {"loss": mean(float("nan") if value is None else value for value in late), "steps": float(steps)}


def spread(cells: Sequence[Figures]) -> tuple[Figures, Figures]:
    """Of the same figures from several seeds: their mean, and the largest minus the smallest."""
    values = {name: [cell[name] for cell in cells] for name in cells[0]}
    return {k: mean(v) for k, v in values.items()}, {k: max(v) - min(v) for k, v in values.items()}


def record(
    folder: Path,
    study: str,
    params: Mapping[str, Any],
    points: Iterable[tuple[int, Mapping[str, float]]],
    files: Sequence[Path],
) -> str:
    """Everything in one MLflow run, the same when a study is called again: its name.

    Args:
        folder: of the study.
        study: its name.
        params: what was studied.
        points: figures, each with the step that MLflow draws it at.
        files: tables and plots.
    """
    tracker = MlflowTracker(folder / "runs" / f"study-{study}-{folder.resolve().name}", experiment="kinema-study")
    tracker.log_hyperparams(params)
    for step, figures in points:
        tracker.log_metrics(figures, step)
    for file in files:
        tracker.log_file(file)
    tracker.finalize("success")
    return f"run {tracker.version} of the experiment {tracker.name}"
