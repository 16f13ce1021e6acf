"""What is measured and shown while a training runs, with the averaged weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from kinema_core import Clip, ImageText, Metric, VideoVAE
from kinema_data import to_uint8, write_preview
from kinema_metrics import retrieval_accuracy
from torch import nn

from kinema.ema import EMA
from kinema.pipeline import Pipeline, Request, reconstruct
from kinema.scoring import reconstruction_figures, score
from kinema.sheet import sheet
from kinema.tracking import MlflowTracker
from kinema.training.schedule import Schedule

#: (trainer, tracker) -> figures by name, the same on all ranks. The tracker is silent on all but the first.
Measure = Callable[[pl.Trainer, MlflowTracker], dict[str, float]]


class Evaluation(pl.Callback):
    """Calls `measure` every so many steps and at the end; its time does not count as training.

    Args:
        measure: gives the figures; it logs pictures and videos itself.
        ema: whose average is measured.
        schedule: whose clock pauses.
        every: optimiser steps; None: at the end only.
    """

    def __init__(self, measure: Measure, ema: EMA, schedule: Schedule, *, every: int | None) -> None:
        self.measure, self.ema, self.schedule, self.every = measure, ema, schedule, every
        self._done = -1

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Measure if it is time."""
        if self.every and trainer.global_step % self.every == 0 and trainer.global_step != self._done:
            self._run(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the final weights."""
        if trainer.global_step != self._done:
            self._run(trainer, pl_module)

    def _run(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._done = trainer.global_step
        tracker = trainer.logger
        assert isinstance(tracker, MlflowTracker)
        module.eval()
        with self.ema.swapped(module):
            figures = self.measure(trainer, tracker)
        module.train()
        tracker.log_metrics(figures, trainer.global_step)
        self.schedule.pause()


def measure_vae(vae: VideoVAE, clips: Sequence[Clip]) -> Measure:
    """PSNR of reconstructions, videos and images apart, and a sheet of originals above reconstructions."""

    def measure(trainer: pl.Trainer, tracker: MlflowTracker) -> dict[str, float]:
        decoded = [reconstruct(vae, clip) for clip in clips]
        if clips:
            shown = [clip for pair in zip(clips[:6], decoded[:6], strict=True) for clip in pair]
            tracker.log_image("reconstructions", sheet(shown), trainer.global_step)
        return {f"val/{name}": value for name, value in reconstruction_figures(clips, decoded).items()}

    return measure


def measure_clip(image_text: ImageText, clips: Sequence[Clip], candidates: int = 32) -> Measure:
    """How often a clip finds its caption among `candidates`."""

    def measure(_: pl.Trainer, __: MlflowTracker) -> dict[str, float]:
        captions = [next(iter(clip.captions.values())) for clip in clips]
        if len(set(captions)) < candidates:
            return {}
        accuracy = retrieval_accuracy(image_text, clips, captions, candidates=candidates)
        return {f"val/retrieval_{candidates}": accuracy}

    return measure


def measure_samples(pipeline: Pipeline, real: Sequence[Clip], metrics: Mapping[str, Metric]) -> Measure:
    """Clips sampled from the captions of `real` at their sizes: scored, shown as a sheet, and kept as mp4."""

    def measure(trainer: pl.Trainer, tracker: MlflowTracker) -> dict[str, float]:
        device = trainer.strategy.root_device
        pipeline.to(device)
        for metric in metrics.values():
            if isinstance(metric, nn.Module):
                metric.to(device)  # its sums are joined over ranks there
        # Each rank makes its share; the metrics join them.
        share = real[trainer.global_rank :: trainer.world_size]
        generated = pipeline.generate([Request.like(clip) for clip in share], seed=0)
        if generated:
            tracker.log_image("samples", sheet(generated[:12]), trainer.global_step)
        if trainer.is_global_zero:
            _log_videos(tracker, generated, trainer.global_step)
        if not real:
            return {}
        return {f"val/{name}": value for name, value in score(metrics, generated, share).items()}

    return measure


def _log_videos(tracker: MlflowTracker, clips: Sequence[Clip], step: int, most: int = 4) -> None:
    for clip in [clip for clip in clips if clip.video.shape[1] > 1][:most]:
        path = tracker.folder / "samples" / f"{step:06d}_{clip.id}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_preview(path, to_uint8(clip.video), clip.frame_rate, metadata=dict(clip.captions))
        tracker.log_video(path, step)
