"""`kinema study sampling`: noise laws trained at equal compute, and steps against quality for laws and samplers.

Every law is trained with the same network, data, optimiser and minutes, and on noise of the same distribution. Their
losses have no common scale, so beside the accuracy of what they make stands the error of their clean estimates at equal
signal-to-noise ratios.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from kinema_core import Clip, Metric, diffusions, samplers
from kinema_data import ManifestDataset
from kinema_data.worlds import make_prompts

from kinema.errors import UserError
from kinema.model_folder import load_model
from kinema.pipeline import Pipeline
from kinema.scoring import build_metrics, load_clip, table
from kinema.study import Cell, Figures, Results, model_path, record, spread, train_side_by_side, training_figures
from kinema.study_measures import COMPARED, Judge, LawWalks, estimate_error, walked
from kinema.study_plots import plot_estimates, plot_steps

#: Under the linear schedule, whose training times are uniform, log(sigma / alpha) has this mean and deviation; the
#: other laws draw theirs from the normal distribution with both, so that all see the same noise.
_NOISE = {"time_mean": 1.33, "time_std": 1.93}
#: The laws by name.
LAWS: dict[str, dict[str, Any]] = {
    **{name: {"name": "ddpm", "schedule": "linear", "prediction": name} for name in ("x0", "eps", "v")},
    "edm": {"name": "edm", **_NOISE},
    "flow": {"name": "flow", **_NOISE, "uniform_share": 0.0},
}
#: Logarithms of (alpha / sigma)^2 at which clean estimates are compared.
LOG_SNRS = (-4.0, -2.0, 0.0, 2.0, 4.0)
STEPS = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class SamplingStudy:
    """What is studied.

    Attributes:
        demo: folder that `kinema demo` wrote: its world, cache, VAE and CLIP are used.
        out: folder of models and results.
        minutes: of each training, on one thread.
        seeds: trainings of each law.
        laws: of `LAWS`.
        samplers: names of installed samplers; none: all that begin with noise.
        steps: numbers of sampling steps.
        reference: steps of the reference.
        clips: that are made and judged in each cell.
        fvd: measure distances to real clips too, if the demo has a CLIP.
    """

    demo: Path
    out: Path
    minutes: float = 5.0
    seeds: int = 3
    laws: Sequence[str] = tuple(LAWS)
    samplers: Sequence[str] = ()
    steps: Sequence[int] = STEPS
    reference: int = 500
    clips: int = 128
    fvd: bool = True

    def __post_init__(self) -> None:
        for part in ("world/world.json", "cache", "models/vae"):
            if not (self.demo / part).exists():
                raise UserError(f"{self.demo} has no {part}; give a folder that `kinema demo` wrote")
        world = json.loads((self.demo / "world" / "world.json").read_text())
        if (world["scale"], world.get("styles", ["flat"]), world.get("events", ["none"])) != (1, ["flat"], ["none"]):
            raise UserError(f"{self.demo / 'world'} has a scale, styles or events; a study is of the demo's own world")
        if not (self.laws and self.steps):
            raise UserError("a study needs at least one law and one number of steps")
        known = [name for name in samplers.names() if not samplers.get(name).from_clean]
        _check("law", self.laws, list(LAWS))
        _check("sampler", self.samplers, known)
        if self.reference <= (most := max(self.steps)):
            raise UserError(f"the reference has {self.reference} steps; it needs more than {most}, the most compared")
        if not self.samplers:
            object.__setattr__(self, "samplers", known)


def _check(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{name!r} is no {kind} of this study; known are {', '.join(known)}")


def study_sampling(study: SamplingStudy) -> str:
    """Train, measure, draw and record; the tables. What was measured before is not measured again."""
    metrics = _metrics(study)
    protocols = {label: dict(getattr(metric, "protocol", {})) for label, metric in metrics.items()}
    _tell_of_bias(study.clips, protocols.get("fvd", {}))
    results = Results(study.out / "results.json", _settings(study, protocols), {"protocols": protocols})
    # Seeds outermost: a machine that slows down meets all laws alike.
    jobs = [(law, seed) for seed in range(study.seeds) for law in study.laws]
    train_side_by_side(study.out, {_model(*job): _command(study, *job) for job in jobs}, study.minutes)

    judge = Judge(_clips(study, "prompts", 1), _clips(study, "reference", 2), metrics)
    cells = {"real": Cell(lambda: judge.judged(judge.prompts))}
    cells |= {_trained_key(*job): Cell(partial(_trained, study, *job, judge)) for job in jobs}
    print("what the trained models make ...", flush=True)
    results.fill(cells, shown=("loss", "motion", "all", "fvd"))

    print("steps against quality ...", flush=True)
    walks: dict[str, Cell] = {}
    for law in study.laws:
        walks |= _walks(law, LawWalks(study.out / model_path(_model(law, 0)), judge, study.reference), study)
    results.fill(walks, shown=("motion", "all", "distance", "fvd"))
    return _record(study, results)


def _settings(study: SamplingStudy, protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What all cells depend on; laws, seeds, samplers and steps can be added to a study."""
    return {
        "demo": str(study.demo.resolve()),
        "vae": load_model(str(study.demo / "models" / "vae"), require=["vae"]).hash,
        "features": protocols["fvd"]["features"]["name"] if "fvd" in protocols else None,
        **{key: getattr(study, key) for key in ("minutes", "clips", "reference")},
    }


def _model(law: str, seed: int) -> str:
    return f"{law}-{seed}"


def _trained_key(law: str, seed: int) -> str:
    return f"{law}/seed {seed}"


def _walk_key(law: str, sampler: str, steps: int) -> str:
    return f"{law}/{sampler}/{steps}"


def _command(study: SamplingStudy, law: str, seed: int) -> list[str]:
    """As the demo's first and second stage in one: noise and given frames between those of both."""
    demo = study.demo.resolve()
    trainer = f"max_minutes: {study.minutes}, max_steps: null, accelerator: cpu, devices: 1, threads: 1"
    return [
        *["train", "dit", f"--config={files('kinema').joinpath('configs', 'demo', 'dit.yaml')}"],
        *[f"vae={demo / 'models' / 'vae'}", f"cache={demo / 'cache'}", "validation=null", "samples.clips=0"],
        "diffusion={" + ", ".join(f"{key}: {value}" for key, value in LAWS[law].items()) + "}",
        *["batch_cells=3072", "keep_share=0.5", "keep_weights={first: 5}", "optim.decay=0.5"],
        *["trainer={" + trainer + ", ema: 0.997, checkpoint_minutes: 1, log_every: 5}", f"--seed={seed}"],
    ]


def _clips(study: SamplingStudy, name: str, seed: int) -> list[Clip]:
    """Real clips of combinations that were never trained on."""
    folder = study.out / name
    if not folder.exists():
        make_prompts(folder, num_clips=study.clips, split="report", seed=seed)
    dataset = ManifestDataset(str(folder))
    return [dataset[i] for i in range(len(dataset))]


def _metrics(study: SamplingStudy) -> dict[str, Metric]:
    nodes: dict[str, dict[str, Any]] = {"world": {"name": "world", "world": str(study.demo / "world" / "world.json")}}
    if not study.fvd:
        return build_metrics(nodes, None)
    folder = study.demo / "models" / "clip"
    if not folder.exists():
        print(f"{study.demo} has no models/clip: Frechet video distances are left out", flush=True)
        return build_metrics(nodes, None)
    return build_metrics({**nodes, "fvd": {"name": "fvd", "keep_features": True}}, load_clip(str(folder)))


def _tell_of_bias(clips: int, protocol: Mapping[str, Any]) -> None:
    numbers = protocol.get("num_features", 0)
    if clips <= numbers:
        print(
            f"Frechet distances of {clips} clips in {numbers} dimensions have a bias: compare them with each other and "
            f"with that of real clips, or take --clips {numbers + 1} or more; kvd has none",
            flush=True,
        )


def _trained(study: SamplingStudy, law: str, seed: int, judge: Judge) -> Figures:
    """What a law has learned: its loss, clips as the model's folder samples them, the error of its clean estimates."""
    name = _model(law, seed)
    pipeline = Pipeline.load(str(study.out / model_path(name)))
    some = judge.prompts[:COMPARED]
    errors = {f"error at {log_snr:+g}": estimate_error(pipeline, some, log_snr) for log_snr in LOG_SNRS}
    return {**training_figures(study.out, name), **judge.made(pipeline), **errors}


def _walks(law: str, walks: LawWalks, study: SamplingStudy) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    compared = min(COMPARED, study.clips)
    reference = study.reference * compared
    for name in study.samplers:
        sampler = samplers.build({"name": name})
        for steps in study.steps:
            evaluations, deterministic = walked(sampler, diffusions.build(LAWS[law]), steps)
            cost = evaluations * (study.clips + deterministic * compared)
            if deterministic:  # the first to need the reference waits for it
                cost, reference = cost + reference, 0
            cells[_walk_key(law, name, steps)] = Cell(partial(walks.measure, sampler, steps), cost)
    return cells


def _record(study: SamplingStudy, results: Results) -> str:
    """Tables as text and in a file, plots, and all of it in MLflow."""
    seeds = {law: [results.cells[_trained_key(law, seed)] for seed in range(study.seeds)] for law in study.laws}
    means = {law: spread(cells)[0] for law, cells in seeds.items()}
    ranges = {law: spread(cells)[1] for law, cells in seeds.items()}
    walks = {
        law: {
            name: {steps: results.cells[_walk_key(law, name, steps)] for steps in study.steps}
            for name in study.samplers
        }
        for law in study.laws
    }
    real = results.cells["real"]
    text = "\n\n".join(_tables(study, {**means, "real": real}, ranges, walks))
    (study.out / "tables.txt").write_text(text + "\n")
    written = [study.out / "tables.txt", results.file]
    written += [plot_estimates(study.out / "estimates.png", seeds), plot_steps(study.out / "steps.png", walks, real)]

    points = [
        (0, {f"{law}/{name}": value for name, value in row.items()}) for law, row in {**means, "real": real}.items()
    ]
    points += [
        (steps, {f"{law}/{name}/{figure}": value for figure, value in cells.items()})
        for law, rows in walks.items()
        for name, row in rows.items()
        for steps, cells in row.items()
    ]
    params = {**{key: str(value) for key, value in vars(study).items()}, **{f"law.{law}": LAWS[law] for law in means}}
    run = record(study.out, "sampling", params, points, written)
    return f"{text}\n\nwrote {', '.join(map(str, written))}; also in MLflow, {run}"


def _tables(
    study: SamplingStudy,
    trained: Mapping[str, Figures],
    ranges: Mapping[str, Figures],
    walks: Mapping[str, Mapping[str, Mapping[int, Figures]]],
) -> list[str]:
    parts = [f"{study.seeds} trainings of {study.minutes:g} minutes each, their mean\n{table(trained)}"]
    if study.seeds > 1:
        parts.append(f"the largest of the {study.seeds} minus the smallest\n{table(ranges)}")
    for law, rows in walks.items():
        for figure in ("all", "motion", "distance", "fvd"):
            columns = {
                name: {f"{steps} steps": cells[figure] for steps, cells in row.items() if figure in cells}
                for name, row in rows.items()
            }
            shown = {name: column for name, column in columns.items() if column}
            if shown:
                parts.append(f"{law}: {figure}\n{table(shown)}")
    return parts
