"""What `kinema study sampling` measures of a model: what it makes, its clean estimates, and walks of samplers."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean

import torch
from kinema_core import Clip, Diffusion, Metric, Ragged, Sampler, device_of, samplers, seeded_normal
from torch import Tensor

from kinema.pipeline import Pipeline, Request
from kinema.scoring import score
from kinema.study import Figures

#: What the ends of deterministic walks are compared with.
REFERENCE = {"name": "dpmpp_2m"}
#: Clips whose latents are compared with those of the reference.
COMPARED = 32


@dataclass(frozen=True)
class Judge:
    """Scores of clips.

    Attributes:
        prompts: real clips whose first captions are generated.
        reference: other real clips of the same kind, with which distances compare.
        metrics: by label.
    """

    prompts: Sequence[Clip]
    reference: Sequence[Clip]
    metrics: Mapping[str, Metric]

    def judged(self, clips: Sequence[Clip]) -> Figures:
        """All figures; distances without the name of their features, which stands in the protocols."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="a Frechet distance of")  # the study says it once
            figures = score(self.metrics, clips, self.reference)
        return {name[:3] if name.startswith(("fvd_", "kvd_")) else name: value for name, value in figures.items()}

    def made(self, pipeline: Pipeline) -> Figures:
        """Of what a model makes of the prompts."""
        return self.judged(pipeline.generate([Request.like(clip) for clip in self.prompts]))


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


@dataclass(frozen=True)
class LawWalks:
    """One model, walked by many samplers. It is loaded when a figure first needs it, and so is the reference.

    Attributes:
        folder: of the model.
        judge: of the clips.
        reference: steps of the walk that deterministic ones are compared with.
    """

    folder: Path
    judge: Judge
    reference: int

    @cached_property
    def pipeline(self) -> Pipeline:
        """The model."""
        return Pipeline.load(str(self.folder))

    @cached_property
    def reference_ends(self) -> list[Tensor]:
        """Latents where the reference ends."""
        return ends(self.pipeline, samplers.build(REFERENCE), self.reference, self._requests)

    def measure(self, sampler: Sampler, steps: int) -> Figures:
        """Scores, evaluations of the network and, without fresh noise, the distance to the reference."""
        evaluations, deterministic = walked(sampler, self.pipeline.law, steps)
        figures = self.judge.made(replace(self.pipeline, sampler=sampler, num_steps=steps))
        if deterministic:
            figures["distance"] = distance(ends(self.pipeline, sampler, steps, self._requests), self.reference_ends)
        return {**figures, "evaluations": float(evaluations)}

    @property
    def _requests(self) -> list[Request]:
        return [Request.like(clip) for clip in self.judge.prompts[:COMPARED]]


def ends(pipeline: Pipeline, sampler: Sampler, steps: int, requests: Sequence[Request]) -> list[Tensor]:
    """Latents where a sampler ends after so many steps; every sampler starts from the same noise."""
    return replace(pipeline, sampler=sampler, num_steps=steps).sample(requests)


def distance(latents: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The root mean square difference of clips' latents, clips of any size counting the same."""
    return mean((a - b).square().mean().item() for a, b in zip(latents, others, strict=True)) ** 0.5


def walked(sampler: Sampler, law: Diffusion, steps: int) -> tuple[int, bool]:
    """How often a sampler asks for a clean estimate in so many steps, and whether it goes without fresh noise."""
    asked: list[str] = []

    def denoise(x: Tensor, _: Tensor) -> Tensor:
        asked.append("estimate")
        return torch.zeros_like(x)

    def noise(_: int) -> Tensor:
        asked.append("noise")
        return torch.zeros(1, 1)

    times = law.times(steps, torch.tensor([64]))
    sampler(denoise, torch.zeros(1, 1), times, law, noise=noise)
    return asked.count("estimate"), "noise" not in asked
