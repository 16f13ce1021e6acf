"""The plots of `kinema study`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

#: {sampler: {steps: figures}}
Walks = Mapping[str, Mapping[int, Mapping[str, float]]]
#: Under which name a figure is plotted over the steps; those that nothing has are left out.
_KINDS = {
    "all": "share of clips all right",
    "motion": "share of right motions",
    "distance": "distance to the reference",
    "fvd": "Fréchet video distance",
}
_SHARES = ("all", "motion")
#: Samplers may agree to the last digit, so each has a mark of its own size.
_MARKS = "os^vDPX*"


def plot_estimates(file: Path, trained: Mapping[str, Sequence[Mapping[str, float]]]) -> Path:
    """Accuracies of each law, a dot each seed, and the error of its clean estimates over the signal-to-noise ratio."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    known = [row for rows in trained.values() for row in rows]
    names = [name for name in ("colour", "motion", "size", "shape", "all") if all(name in row for row in known)]
    wide = 0.8 / max(len(trained), 1)
    for number, (law, rows) in enumerate(trained.items()):
        places = [i + number * wide for i in range(len(names))]
        left.bar(places, [mean(row[name] for row in rows) for name in names], wide, label=law, alpha=0.7)
        for row in rows:
            left.plot(places, [row[name] for name in names], ".", color="black", markersize=4)
        errors = [name for name in rows[0] if name.startswith("error at ")]
        ratios = [float(name.removeprefix("error at ")) for name in errors]
        right.plot(ratios, [mean(row[name] for row in rows) for name in errors], marker="o", label=law)
    left.set_xticks([i + 0.4 - wide / 2 for i in range(len(names))], names)
    left.set(ylim=(0, 1.02), ylabel="share of clips that are right")
    right.set(yscale="log", xlabel="log (alpha / sigma)²", ylabel="mean squared error of the clean estimate")
    right.legend()
    figure.savefig(file, dpi=120)
    return file


def plot_steps(file: Path, walks: Mapping[str, Walks], real: Mapping[str, float]) -> Path:
    """A row a law: accuracy, distance to the reference and Frechet distance over evaluations of the network.

    A dotted line is what real clips have.
    """
    cells = [cell for rows in walks.values() for row in rows.values() for cell in row.values()]
    shown = [kind for kind in _KINDS if any(kind in cell for cell in cells)]
    counts = sorted({cell["evaluations"] for cell in cells})
    figure = Figure(figsize=(4.6 * len(shown), 3.4 * len(walks) + 0.6), layout="constrained")
    axes = figure.subplots(len(walks), len(shown), squeeze=False)
    for line, (law, rows) in zip(axes, walks.items(), strict=True):
        for axis, kind in zip(line, shown, strict=True):
            for number, (name, row) in enumerate(rows.items()):
                points = sorted((cell["evaluations"], cell[kind]) for cell in row.values() if kind in cell)
                if points:
                    style = {"marker": _MARKS[number % len(_MARKS)], "color": f"C{number}", "alpha": 0.75}
                    axis.plot(*zip(*points, strict=True), label=name, markersize=8 - number * 0.6, **style)
            if kind in real and kind != "distance":
                axis.axhline(real[kind], color="black", linestyle=":", linewidth=1)
            axis.set(xscale="log", xlabel="evaluations of the network", ylabel=_KINDS[kind], title=law)
            axis.xaxis.set_major_locator(FixedLocator([n for n in counts if n.is_integer() and _is_power_of_two(n)]))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
            axis.xaxis.set_minor_locator(NullLocator())
            if kind in _SHARES:
                axis.set_ylim(0, 1.02)
            else:
                axis.set_yscale("log")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    figure.savefig(file, dpi=120)
    return file


def _is_power_of_two(number: float) -> bool:
    return int(number) & (int(number) - 1) == 0
