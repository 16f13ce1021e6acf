"""`kinema evaluate`: clips generated from a dataset's captions, scored beside its real clips and simple baselines.

Rows: `real` (the dataset's own clips: what the metrics say of the truth), `vae` (the same after encoding and decoding:
the most that any model on these latents can reach), `generated`, and `shuffled` (the real clips with their frames in
random order: what a distance between videos must tell apart).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from kinema_core import Clip, Metric, datasets, guidances, samplers, seeded_generator
from kinema_data import to_float, to_uint8, write_image
from torch import Tensor

from kinema.components import build
from kinema.config import component, component_set, load_config, print_config
from kinema.generate import generate_clips
from kinema.pipeline import Pipeline, Request, best_device, reconstruct
from kinema.runs import new_run_id
from kinema.scoring import build_metrics, load_clip, reconstruction_figures, score, table
from kinema.sheet import sheet
from kinema.tracking import MlflowTracker
from kinema.training.data_module import readable
from kinema.training.settings import RunSettings

ROWS = ("real", "vae", "generated", "shuffled")


@dataclass
class EvaluationSettings:
    """`kinema evaluate`.

    Attributes:
        model: folder of a whole model.
        clip: model folder of the CLIP behind `clip_score`, `clip_retrieval` and the features `clip`.
        data: real clips; their captions are the prompts, their sizes those of the generated clips.
        reference: other real clips, with which distances compare every row; None: `data` itself.
        clips: how many of `data` and `reference`, from the first; None: all.
        metrics: by label; a metric that takes a CLIP or video features gets them from `clip`.
        rows: which rows to score.
        by_size: score the generated clips of each size (frames x height x width) apart, too.
        sampler, guidance, num_steps: instead of the model's own.
        negative_prompt: what guidance leads away from.
        processes: share the generation.
    """

    seed: int = 0
    model: str = "models/dit"
    clip: str | None = None
    data: dict[str, Any] = component("dataset", name="manifest", path="world", split="report")
    reference: dict[str, Any] | None = component("dataset")
    clips: int | None = None
    metrics: dict[str, dict[str, Any]] = component_set("metric")
    rows: list[str] = field(default_factory=lambda: list(ROWS))
    by_size: bool = False
    sampler: dict[str, Any] | None = component("sampler")
    guidance: dict[str, Any] | None = component("guidance")
    num_steps: int | None = None
    negative_prompt: str = ""
    processes: int = 1
    out: str = "evaluation"
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        for row in self.rows:
            if row not in ROWS:
                raise ValueError(f"rows: {row!r} is no row; known are {', '.join(ROWS)}")


def evaluate_command(file: str | None, overrides: Sequence[str] = (), *, print_only: bool = False) -> None:
    """Write `out`/report.json and `out`/sheet.png, log both to MLflow, and print the table."""
    config = load_config(EvaluationSettings, file, overrides)
    if print_only:
        print_config(config)
        return
    report, picture = evaluate(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1))
    write_image(out / "sheet.png", picture)
    _track(config, report, picture, out)
    print(table(report["rows"]))
    print(f"wrote {out / 'report.json'} and {out / 'sheet.png'}")


def evaluate(config: EvaluationSettings) -> tuple[dict[str, Any], Tensor]:
    """{"rows": {row: {figure: value}}, "protocols": {label: what fixes the figures}, ...}, and a contact sheet."""
    real = _clips(config.data, config.clips)
    reference = _clips(config.reference, config.clips) if config.reference else real
    clip = load_clip(config.clip)
    if clip:
        clip.to(best_device())
    metrics = build_metrics(config.metrics, clip)
    pipeline = Pipeline.load(config.model, **_changes(config))
    rows = {row: _row(row, real, pipeline, config) for row in config.rows}

    report: dict[str, Any] = {"clips": len(real), "model_hash": pipeline.hash}
    report["rows"] = {row: score(metrics, clips, reference) for row, clips in rows.items()}
    if "vae" in rows:
        report["rows"]["vae"] |= reconstruction_figures(real, rows["vae"])
    if config.by_size:
        report["sizes"] = _by_size(metrics, rows["generated"], reference)
    report["protocols"] = {label: dict(getattr(metric, "protocol", {})) for label, metric in metrics.items()}
    shown = rows.get("generated", real)[:16]
    return report, sheet(shown)


def _row(row: str, real: list[Clip], pipeline: Pipeline, config: EvaluationSettings) -> list[Clip]:
    if row == "vae":
        return [_quantised(reconstruct(pipeline.vae, clip)) for clip in real]
    if row == "shuffled":
        return [_shuffled(clip, config.seed) for clip in real]
    if row == "generated":
        requests = [Request.like(clip) for clip in real]
        clips = generate_clips(
            config.model, requests, seed=config.seed, processes=config.processes, changes=_changes(config)
        )
        return [_quantised(clip) for clip in clips]
    return real


def _by_size(metrics: Mapping[str, Metric], clips: list[Clip], reference: list[Clip]) -> dict[str, dict[str, float]]:
    """{"9x32x48": figures}, sizes in order of first appearance."""

    def size(clip: Clip) -> str:
        return "x".join(map(str, clip.video.shape[1:]))

    return {
        key: score(metrics, [c for c in clips if size(c) == key], [c for c in reference if size(c) == key])
        for key in dict.fromkeys(map(size, clips))
    }


def _clips(node: dict[str, Any], count: int | None) -> list[Clip]:
    dataset = build(datasets, node)
    return readable(dataset, count or len(dataset))


def _changes(config: EvaluationSettings) -> dict[str, Any]:
    changes = {
        "sampler": config.sampler and build(samplers, config.sampler),
        "guidance": config.guidance and build(guidances, config.guidance),
        "num_steps": config.num_steps,
        "negative_prompt": config.negative_prompt,
    }
    return {key: value for key, value in changes.items() if value is not None}


def _quantised(clip: Clip) -> Clip:
    """With the 8-bit values that a file would hold, as real clips have them."""
    return replace(clip, video=to_float(to_uint8(clip.video)))


def _shuffled(clip: Clip, seed: int) -> Clip:
    order = torch.randperm(clip.video.shape[1], generator=seeded_generator(seed, clip.id, "shuffle"))
    return replace(clip, video=clip.video[:, order])


def open_tracker(config: Any) -> MlflowTracker:
    """The record of an evaluation, as its settings' `run` says, with the settings in it."""
    run: RunSettings = config.run
    tracker = MlflowTracker(
        Path(run.dir) / (run.id or new_run_id("evaluate")), experiment=run.experiment, uri=run.tracking_uri
    )
    tracker.log_config(config)
    return tracker


def _track(config: EvaluationSettings, report: dict[str, Any], picture: Tensor, out: Path) -> None:
    tracker = open_tracker(config)
    for row, figures in report["rows"].items():
        tracker.log_metrics({f"{row}/{name}": value for name, value in figures.items()})
    tracker.log_file(out / "report.json")
    tracker.log_image("samples", picture, 0)
    tracker.finalize("success")
