"""`kinema study sampling`: noise laws trained at equal compute, and steps against quality for laws and samplers.

Every law is trained with the same network, data, optimiser and minutes. Their losses have no common scale, so beside
the accuracy of what they make stands the error of their clean estimates at equal signal-to-noise ratios.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from kinema_core import Clip, Metric, Ragged, Sampler, device_of, samplers, seeded_normal
from kinema_data import ManifestDataset
from kinema_data.worlds import make_prompts
from torch import Tensor

from kinema.demo import Stages
from kinema.errors import UserError
from kinema.pipeline import Pipeline, Request
from kinema.scoring import build_metrics, load_clip, score, table
from kinema.study import Figures, Results
from kinema.study_plots import plot_estimates, plot_steps
from kinema.tracking import MlflowTracker

#: The laws by name. Training times: cosine schedules draw them evenly; the other two from a normal distribution of
#: log(sigma / alpha) with the same mean and deviation.
_NOISE = {"time_mean": 1.2, "time_std": 1.4}
LAWS: dict[str, dict[str, Any]] = {
    **{name: {"name": "ddpm", "schedule": "cosine", "prediction": name} for name in ("x0", "eps", "v")},
    "edm": {"name": "edm", **_NOISE},
    "flow": {"name": "flow", **_NOISE},
}
#: Logarithms of (alpha / sigma)^2 at which clean estimates are compared.
LOG_SNRS = (-4.0, -2.0, 0.0, 2.0, 4.0)
STEPS = (4, 8, 16, 32)
#: What the ends of deterministic walks are compared with.
REFERENCE = {"name": "dpmpp_2m"}
#: Clips whose latents are compared with those of the reference.
COMPARED = 32


@dataclass(frozen=True)
class SamplingStudy:
    """What is studied.

    Attributes:
        demo: folder that `kinema demo` wrote: its world, cache, VAE and CLIP are used.
        out: folder of models and results.
        minutes: of each training, on one thread.
        seeds: trainings of each law.
        laws: of `LAWS`.
        samplers: names of installed samplers.
        steps: numbers of sampling steps.
        reference: steps of the reference.
        clips: that are made and judged in each cell.
        fvd: measure the distance to real clips too; it needs more clips than its features have numbers.
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
    fvd: bool = False

    def __post_init__(self) -> None:
        for part in ("world/world.json", "cache", "models/vae"):
            if not (self.demo / part).exists():
                raise UserError(f"{self.demo} has no {part}; give a folder that `kinema demo` wrote")
        begin = [name for name in samplers.names() if samplers.get(name).from_clean]
        for what, given, known in (
            ("law", self.laws, list(LAWS)),
            ("sampler", self.samplers, [name for name in samplers.names() if name not in begin]),
        ):
            for name in given:
                if name not in known:
                    raise UserError(f"{name!r} is no {what} of this study; known are {', '.join(known)}")
        if not self.samplers:
            object.__setattr__(self, "samplers", [name for name in samplers.names() if name not in begin])


def study_sampling(study: SamplingStudy) -> str:
    """Train, measure, draw and record; the tables. What was measured before is not measured again."""
    study.out.mkdir(parents=True, exist_ok=True)
    settings = {key: getattr(study, key) for key in ("minutes", "clips", "fvd", "reference")}
    results = Results(study.out / "results.json", {"demo": str(study.demo.resolve()), **settings})
    _train(study)
    real = _prompts(study)
    metrics = _metrics(study)
    for law in study.laws:
        for seed in range(study.seeds):
            results.get(f"{law}/seed {seed}", lambda law=law, seed=seed: _trained(study, law, seed, real, metrics))
            print(f"{law}, seed {seed}: " + _line(results.cells[f"{law}/seed {seed}"]), flush=True)
    for law in study.laws:
        _steps(study, law, results, real, metrics)
    return _record(study, results)


def model_folder(law: str, seed: int) -> str:
    """Of a trained law, in the study's folder."""
    return f"models/{law}-{seed}"


def _train(study: SamplingStudy) -> None:
    """What is not trained yet, two at a time on one thread each, so that all have equal compute."""
    jobs = [(law, seed) for law in study.laws for seed in range(study.seeds)]
    left = [job for job in jobs if not (study.out / model_folder(*job) / "kinema.yaml").is_file()]
    if not left:
        return
    stages = Stages(study.out.resolve(), 0)
    for pair in (left[i : i + 2] for i in range(0, len(left), 2)):
        stages.run({f"{law} seed {seed}": _command(study, law, seed) for law, seed in pair}, seeded=False)


def _command(study: SamplingStudy, law: str, seed: int) -> list[str]:
    demo, name = study.demo.resolve(), model_folder(law, seed)
    trainer = f"max_minutes: {study.minutes}, max_steps: null, accelerator: cpu, devices: 1, threads: 1"
    return [
        *["train", "dit", f"--config={files('kinema').joinpath('configs', 'demo', 'dit.yaml')}"],
        *[f"vae={demo / 'models' / 'vae'}", f"cache={demo / 'cache'}", "validation=null", "samples.clips=0"],
        "diffusion={" + ", ".join(f"{key}: {value}" for key, value in LAWS[law].items()) + "}",
        *["batch_cells=3072", "keep_share=0.5", "keep_weights={first: 5}", "optim.decay=0.5"],
        *["trainer={" + trainer + ", ema: 0.997, checkpoint_minutes: 1}", f"run.out={name}"],
        *[f"run.id={name.replace('/', '-')}", "--resume=auto", f"--seed={seed}"],
    ]


def _prompts(study: SamplingStudy) -> list[Clip]:
    """Real clips of combinations that were never trained on; their captions are the prompts."""
    folder = study.out / "prompts"
    if not folder.exists():
        make_prompts(folder, num_clips=study.clips, split="report", seed=1)
    dataset = ManifestDataset(folder)
    return [dataset[i] for i in range(len(dataset))]


def _metrics(study: SamplingStudy) -> dict[str, Metric]:
    nodes: dict[str, dict[str, Any]] = {"world": {"name": "world", "world": str(study.demo / "world" / "world.json")}}
    if not study.fvd:
        return build_metrics(nodes, None)
    clip = load_clip(str(study.demo / "models" / "clip"))
    return build_metrics({**nodes, "fvd": {"name": "fvd"}}, clip)


def _trained(
    study: SamplingStudy, law: str, seed: int, real: Sequence[Clip], metrics: dict[str, Metric]
) -> Figures:  # fmt: skip
    """What a law has learned: clips as the model's folder samples them, and the error of its clean estimates."""
    pipeline = Pipeline.load(str(study.out / model_folder(law, seed)))
    errors = {f"error at {log_snr:+g}": estimate_error(pipeline, real[:COMPARED], log_snr) for log_snr in LOG_SNRS}
    return {**_scores(pipeline, real, metrics), **errors}


def _scores(pipeline: Pipeline, real: Sequence[Clip], metrics: dict[str, Metric]) -> Figures:
    made = pipeline.generate([Request.like(clip) for clip in real])
    figures = score(metrics, made, real)
    return {("fvd" if name.startswith("fvd_") else name): value for name, value in figures.items()}


@torch.no_grad()
def estimate_error(pipeline: Pipeline, clips: Sequence[Clip], log_snr: float) -> float:
    """The mean squared error of clean estimates from latents whose (alpha / sigma)^2 is exp(log_snr)."""
    vae, law = pipeline.vae, pipeline.law
    latents = [vae.encode(clip.video[None].to(device_of(vae)))[0] for clip in clips]
    x0 = Ragged.from_clips(latents, [clip.frame_rate / vae.stride[0] for clip in clips]).to(device_of(pipeline.dit))
    t = law.time_at(torch.full((len(x0.values),), log_snr, device=x0.values.device))
    noise = torch.cat(
        [seeded_normal(tuple(z.shape), clip.id).flatten(1).T for z, clip in zip(latents, clips, strict=True)]
    )
    x = law.alpha(t)[:, None] * x0.values + law.sigma(t)[:, None] * noise.to(x0.values.device)
    cond = pipeline.conditioning([next(iter(clip.captions.values())) for clip in clips])
    clean = law.denoise(pipeline.dit, x0.replace(x), t, cond)
    return (clean - x0.values).square().mean().item()


def _steps(
    study: SamplingStudy, law: str, results: Results, real: Sequence[Clip], metrics: dict[str, Metric]
) -> None:  # fmt: skip
    """Every sampler at every number of steps, on the law's first training."""
    pipeline = Pipeline.load(str(study.out / model_folder(law, 0)))
    requests = [Request.like(clip) for clip in real[:COMPARED]]
    ends: list[Tensor] = []

    def measure(changed: Pipeline, deterministic: bool) -> Figures:
        figures = _scores(changed, real, metrics)
        if deterministic:
            if not ends:
                exact = replace(pipeline, sampler=samplers.build(REFERENCE), num_steps=study.reference)
                ends.extend(exact.sample(requests))
            figures["distance"] = distance(changed.sample(requests), ends)
        return figures

    for name in study.samplers:
        sampler = samplers.build({"name": name})
        for steps in study.steps:
            evaluations, deterministic = walked(sampler, pipeline, steps)
            changed = replace(pipeline, sampler=sampler, num_steps=steps)
            key = f"{law}/{name}/{steps}"
            found = results.get(
                key, lambda c=changed, d=deterministic, e=evaluations: {**measure(c, d), "evaluations": e}
            )  # fmt: skip
            print(f"{law}, {name}, {steps} steps: " + _line(found), flush=True)


def distance(latents: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The root mean square difference of clips' latents, clips of any size counting the same."""
    return mean((a - b).square().mean().item() for a, b in zip(latents, others, strict=True)) ** 0.5


def walked(sampler: Sampler, pipeline: Pipeline, steps: int) -> tuple[int, bool]:
    """How often a sampler asks for a clean estimate in so many steps, and whether it goes without fresh noise."""
    asked: list[str] = []

    def denoise(x: Tensor, _: Tensor) -> Tensor:
        asked.append("estimate")
        return torch.zeros_like(x)

    def noise(_: int) -> Tensor:
        asked.append("noise")
        return torch.zeros(1, 1)

    times = pipeline.law.times(steps, torch.tensor([64]))
    sampler(denoise, torch.zeros(1, 1), times, pipeline.law, noise=noise)
    return asked.count("estimate"), "noise" not in asked


def _line(figures: Figures) -> str:
    shown = ("motion", "all", "distance", "fvd")
    return ", ".join(f"{name} {figures[name]:.3g}" for name in shown if name in figures)


def _record(study: SamplingStudy, results: Results) -> str:
    """Tables as text and in a file, plots, and all of it in MLflow."""
    trained = {
        law: {
            name: mean(results.cells[f"{law}/seed {seed}"][name] for seed in range(study.seeds))
            for name in results.cells[f"{law}/seed 0"]
        }
        for law in study.laws
    }
    walks = {
        law: {name: {steps: results.cells[f"{law}/{name}/{steps}"] for steps in study.steps} for name in study.samplers}
        for law in study.laws
    }
    parts = [f"{study.seeds} trainings of {study.minutes:g} minutes each, their mean\n{table(trained)}"]
    for law, rows in walks.items():
        for figure in ("all", "distance", "fvd"):
            shares = {
                name: {f"{steps} steps": cells[figure] for steps, cells in row.items() if figure in cells}
                for name, row in rows.items()
            }
            if any(shares.values()):
                parts.append(f"{law}: {figure}\n{table(shares)}")
    text = "\n\n".join(parts)
    (study.out / "tables.txt").write_text(text + "\n")
    written = [study.out / "tables.txt", results.file]
    written += [plot_estimates(study.out / "estimates.png", trained), plot_steps(study.out / "steps.png", walks)]

    tracker = MlflowTracker(study.out / "run", experiment="kinema-study")
    tracker.log_hyperparams({key: str(value) for key, value in vars(study).items()})
    for law, figures in trained.items():
        tracker.log_metrics({f"{law}/{name}": value for name, value in figures.items()})
    for law, rows in walks.items():
        for name, row in rows.items():
            for steps, cells in row.items():
                tracker.log_metrics({f"{law}/{name}/{figure}": value for figure, value in cells.items()}, step=steps)
    for file in written:
        tracker.log_file(file)
    tracker.finalize("success")
    return f"{text}\n\nwrote {', '.join(map(str, written))}; also in MLflow, experiment kinema-study"
