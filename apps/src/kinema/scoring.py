"""Metrics built from config, run over clips, and shown as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from kinema_core import Clip, ImageText, Metric, features, metrics
from kinema_metrics import psnr

from kinema.components import build
from kinema.errors import UserError
from kinema.model_folder import load_model


def load_clip(folder: str | None) -> ImageText | None:
    """The CLIP of a model folder that `kinema train clip` wrote."""
    if folder is None:
        return None
    for encoder in load_model(folder, require=["text"]).of_kind("text"):
        if isinstance(getattr(encoder, "image_text", None), ImageText):
            return encoder.image_text
    raise UserError(f"{folder} holds no CLIP; `kinema train clip` writes one")


def build_metrics(nodes: Mapping[str, Mapping[str, Any]], clip: ImageText | None) -> dict[str, Metric]:
    """The metrics by label; those that take `image_text` get `clip`, those that take `features` get features of it.

    Raises:
        UserError: a metric needs a CLIP and there is none.
    """
    built: dict[str, Metric] = {}
    for label, node in nodes.items():
        accepted = metrics.parameters(node["name"])
        needed: dict[str, Any] = {}
        if "features" in accepted and "features" not in node:
            needed["features"] = build(features, {"name": "clip"}, image_text=_given(clip, label))
        if "image_text" in accepted:
            needed["image_text"] = _given(clip, label)
        built[label] = build(metrics, node, **needed)
    return built


def score(built: Mapping[str, Metric], clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
    """All figures of some clips, beside real ones where a metric compares."""
    figures: dict[str, float] = {}
    for metric in built.values():
        metric.reset()
        metric.update(list(clips), list(reference))
        figures |= metric.compute()
    return figures


def reconstruction_figures(originals: Sequence[Clip], decoded: Sequence[Clip]) -> dict[str, float]:
    """Mean PSNR in dB of videos and of images: psnr_video and psnr_image, where there are any."""
    values: dict[str, list[float]] = {}
    for original, other in zip(originals, decoded, strict=True):
        name = "psnr_image" if original.video.shape[1] == 1 else "psnr_video"
        values.setdefault(name, []).append(psnr(other.video[None], original.video[None]).item())
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Figures as lines, rows as columns."""
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    wide = max([len(name) for name in names], default=0)
    columns = [max(len(row), 9) for row in rows]
    head = " " * wide + "".join(f"  {row:>{width}}" for row, width in zip(rows, columns, strict=True))
    lines = [
        f"{name:<{wide}}"
        + "".join(
            f"  {_shown(scores.get(name)):>{width}}" for scores, width in zip(rows.values(), columns, strict=True)
        )
        for name in names
    ]
    return "\n".join([head, *lines])


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _given(clip: ImageText | None, label: str) -> ImageText:
    if clip is None:
        raise UserError(f"metrics.{label} needs a CLIP; name the model folder of one: clip=PATH")
    return clip
