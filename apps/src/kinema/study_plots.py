"""The plots of `kinema study`."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

#: {sampler: {steps: figures}}
Walks = Mapping[str, Mapping[int, Mapping[str, float]]]


def plot_estimates(file: Path, trained: Mapping[str, Mapping[str, float]]) -> Path:
    """Accuracies of each law, and the error of its clean estimates over the signal-to-noise ratio."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [
        name for name in ("colour", "motion", "size", "shape", "all") if all(name in row for row in trained.values())
    ]
    wide = 0.8 / max(len(trained), 1)
    for number, (law, row) in enumerate(trained.items()):
        left.bar([i + number * wide for i in range(len(names))], [row[name] for name in names], wide, label=law)
        points = [(float(name.removeprefix("error at ")), row[name]) for name in row if name.startswith("error at ")]
        right.plot(*zip(*points, strict=True), marker="o", label=law)
    left.set_xticks([i + 0.4 - wide / 2 for i in range(len(names))], names)
    left.set(ylim=(0, 1), ylabel="share of clips that are right")
    right.set(yscale="log", xlabel="log (alpha / sigma)²", ylabel="mean squared error of the clean estimate")
    left.legend()
    figure.savefig(file, dpi=120)
    return file


def plot_steps(file: Path, walks: Mapping[str, Walks]) -> Path:
    """A row a law: accuracy, distance to the reference and Frechet distance over evaluations of the network."""
    kinds = {
        "all": "share of clips all right",
        "distance": "distance to the reference",
        "fvd": "Fréchet video distance",
    }
    found = {
        kind
        for rows in walks.values()
        for row in rows.values()
        for cells in row.values()
        for kind in kinds
        if kind in cells
    }
    shown = [kind for kind in kinds if kind in found]
    figure = Figure(figsize=(5 * len(shown), 3.4 * len(walks)), layout="constrained")
    axes = figure.subplots(len(walks), len(shown), squeeze=False)
    for line, (law, rows) in zip(axes, walks.items(), strict=True):
        for axis, kind in zip(line, shown, strict=True):
            for name, row in rows.items():
                points = [(cells["evaluations"], cells[kind]) for cells in row.values() if kind in cells]
                if points:
                    axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
            axis.set(xscale="log", xlabel="evaluations of the network", ylabel=f"{law}: {kinds[kind]}")
            if kind != "all":
                axis.set_yscale("log")
    axes[0][0].legend()
    figure.savefig(file, dpi=120)
    return file
