"""`kinema evaluate vae`: clips after encoding and decoding beside the originals, in figures, files and pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from kinema_core import Clip, VideoVAE, datasets
from kinema_data import to_float, to_uint8, write_image, write_preview
from kinema_metrics import frame_difference, psnr, seam_ratio, ssim
from kinema_vae import TiledVAE
from torch import Tensor

from kinema.components import build
from kinema.config import component, component_set, load_config, print_config
from kinema.evaluate import open_tracker
from kinema.model_folder import load_model
from kinema.pipeline import best_device, reconstruct
from kinema.scoring import build_metrics, load_clip, score, table
from kinema.sheet import sheet
from kinema.training.data_module import readable
from kinema.training.settings import RunSettings


@dataclass
class VAEEvaluation:
    """`kinema evaluate vae`.

    Attributes:
        model: folder with a VAE.
        data: the clips.
        clips: how many, from the first; None: all.
        tile: decode and encode tile by tile of this many pixels, and measure the seams; None: whole frames.
        clip: model folder of the CLIP behind the features `clip`.
        metrics: further ones by label, over all clips: fvd, torchmetrics (LPIPS), world, ...
        files: of how many videos to write original, reconstruction and error side by side.
    """

    seed: int = 0
    model: str = "models/vae"
    data: dict[str, Any] = component("dataset", name="manifest", path="world", split="report")
    clips: int | None = None
    tile: int | None = None
    clip: str | None = None
    metrics: dict[str, dict[str, Any]] = component_set("metric")
    files: int = 4
    out: str = "evaluation/vae"
    run: RunSettings = field(default_factory=RunSettings)


def evaluate_vae_command(file: str | None, overrides: Sequence[str] = (), *, print_only: bool = False) -> None:
    """Write `out`/report.json, sheet.png and the videos, log the figures to MLflow, and print the table by size."""
    config = load_config(VAEEvaluation, file, overrides)
    if print_only:
        print_config(config)
        return
    (vae,) = load_model(config.model, require=["vae"]).of_kind("vae")
    dataset = build(datasets, config.data)
    originals = readable(dataset, config.clips or len(dataset))
    vae.to(best_device())
    tiled = TiledVAE(vae, config.tile).eval() if config.tile else vae
    decoded = [replace(clip, video=to_float(to_uint8(reconstruct(tiled, clip).video))) for clip in originals]

    metrics = build_metrics(config.metrics, load_clip(config.clip))
    report: dict[str, Any] = {"clips": len(originals), "sizes": by_size(originals, decoded, vae, config.tile)}
    report["all"] = {**report["sizes"].pop("all"), **score(metrics, decoded, originals)}
    report["protocols"] = {label: dict(getattr(metric, "protocol", {})) for label, metric in metrics.items()}

    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1))
    pairs = list(zip(originals, decoded, strict=True))
    picture = sheet([clip for pair in pairs[:8] for clip in pair])
    write_image(out / "sheet.png", picture)
    videos = _write_videos(pairs, out, config.files)
    _track(config, report, picture, [out / "report.json", *videos])
    print(table({"all": report["all"], **report["sizes"]}))
    print(f"wrote {out / 'report.json'}, {out / 'sheet.png'} and {len(videos)} videos: original, reconstruction, error")


def by_size(
    originals: Sequence[Clip], decoded: Sequence[Clip], vae: VideoVAE, tile: int | None = None
) -> dict[str, dict[str, float]]:
    """Figures by size ("9x32x48") and over "all", each the mean over clips.

    psnr in dB; ssim where frames are large enough; flicker: the change between frames as a multiple of the original's
    (1 is right), of clips that move; seam: with `tile`, the step across borders of tiles over that beside them, as a
    multiple of the original's.
    """
    values: dict[str, dict[str, list[float]]] = {"all": {}}
    for original, other in zip(originals, decoded, strict=True):
        key = "x".join(map(str, original.video.shape[1:]))
        for name, value in _figures(original.video[None], other.video[None], vae, tile).items():
            for group in ("all", key):
                values.setdefault(group, {}).setdefault(name, []).append(value)
    return {
        group: {**{name: sum(some) / len(some) for name, some in named.items()}, "clips": float(len(named["psnr"]))}
        for group, named in values.items()
    }


def _figures(original: Tensor, decoded: Tensor, vae: VideoVAE, tile: int | None) -> dict[str, float]:
    figures = {"psnr": psnr(decoded, original).item()}
    if min(original.shape[3:]) >= 11:
        figures["ssim"] = ssim(decoded, original).item()
    change = frame_difference(original).item()
    if change > 1e-4:
        figures["flicker"] = frame_difference(decoded).item() / change
    if tile:
        step = tuple(max(1, tile // s) * s for s in vae.stride[1:])
        seam, own = (seam_ratio(x, (step[0], step[1])).item() for x in (decoded, original))
        if own > 0 and seam > 0:
            figures["seam"] = seam / own
    return figures


def _write_videos(pairs: Sequence[tuple[Clip, Clip]], out: Path, count: int) -> list[Path]:
    """Original, reconstruction and four times the error, side by side."""
    paths: list[Path] = []
    for original, decoded in [pair for pair in pairs if pair[0].video.shape[1] > 1][:count]:
        error = (
            ((decoded.video - original.video).abs().mean(0, keepdim=True) * 4 - 1).clamp(-1, 1).expand(3, -1, -1, -1)
        )
        row = torch.cat([original.video, decoded.video, error], dim=3)
        path = out / f"{original.id}.mp4"
        write_preview(path, to_uint8(row), original.frame_rate, metadata=dict(original.captions))
        paths.append(path)
    return paths


def _track(config: VAEEvaluation, report: dict[str, Any], picture: Tensor, files: Sequence[Path]) -> None:
    tracker = open_tracker(config)
    for size, figures in {"all": report["all"], **report["sizes"]}.items():
        tracker.log_metrics({f"vae/{size}/{name}": value for name, value in figures.items()})
    for file in files:
        tracker.log_file(file)
    tracker.log_image("reconstructions", picture, 0)
    tracker.finalize("success")
