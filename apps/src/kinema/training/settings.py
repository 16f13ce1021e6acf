"""The typed defaults of `kinema train` and `kinema encode`: what a YAML file and the command line change."""

from dataclasses import dataclass, field
from typing import Any

from kinema_dit import LORA_TARGETS

from kinema.config import component, component_set
from kinema.tasks import mask_ends


@dataclass
class OptimSettings:
    """Muon for matrices, AdamW for the rest (see `MuonAdamW`).

    The rates rise over the first `warmup` of the run and fall to zero over its last `decay`.
    """

    lr: float = 1e-3
    muon_lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    momentum: float = 0.95
    weight_decay: float = 0.0
    warmup: float = 0.02
    decay: float = 0.5


@dataclass
class TrainerSettings:
    """How long and on what. The run ends at `max_steps` or after `max_minutes`, whichever comes first.

    `devices` processes share each global batch; `threads` CPU threads each (None: as torch likes).
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    accelerator: str = "auto"
    devices: int = 1
    threads: int | None = None
    precision: str = "32-true"
    clip_norm: float = 1.0
    ema: float = 0.999
    log_every: int = 25
    evaluate_every: int | None = None
    checkpoint_minutes: float | None = 10.0

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("max_steps or max_minutes needs a value: when is the run to end?")


@dataclass
class RunSettings:
    """Where the run is recorded. `out` is the model folder that is written at the end."""

    out: str = "model"
    dir: str = "runs"
    id: str | None = None
    experiment: str = "kinema"
    tracking_uri: str | None = None


@dataclass
class PerceptualSettings:
    """A loss in the features of an image network; 0: none.

    `network` is lpips or a timm model, `weights` a file with the latter's. Both need `pip install 'kinema-vae[train]'`.
    """

    weight: float = 0.0
    network: str = "lpips"
    weights: str | None = None


@dataclass
class GANSettings:
    """A discriminator of video patches, from step `start` on; 0: none. `width` channels in its first layer."""

    weight: float = 0.0
    start: int = 10000
    width: int = 32
    layers: int = 3


@dataclass
class VAETraining:
    """`kinema train vae`: mean squared error + `l1` times absolute error + `kl` times the divergence from N(0, 1).

    And, where their weights are not 0: `wavelet` times the absolute error of Haar coefficients, `flicker` times the
    squared error of the change from frame to frame, a perceptual and an adversarial loss. `vae.init_from` is a model
    folder, or a diffusers folder of a Wan VAE, to go on from.
    """

    seed: int = 0
    vae: dict[str, Any] = component("vae", name="causal3d")
    data: dict[str, Any] = component("dataset", name="manifest", path="world", split="train")
    validation: dict[str, Any] | None = component("dataset", name="manifest", path="world", split="choose")
    batch_pixels: int = 73728
    sizes_per_step: int = 1
    validation_clips: int = 64
    whitening_clips: int = 256
    l1: float = 0.2
    kl: float = 1e-4
    wavelet: float = 0.0
    flicker: float = 0.0
    perceptual: PerceptualSettings = field(default_factory=PerceptualSettings)
    gan: GANSettings = field(default_factory=GANSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    trainer: TrainerSettings = field(default_factory=lambda: TrainerSettings(max_steps=10000))
    run: RunSettings = field(default_factory=lambda: RunSettings(out="models/vae"))


@dataclass
class CLIPTraining:
    """`kinema train clip`: contrastive training of the CLIP inside a text encoder on captions and frames.

    A share `soften` of the frames is seen blurred and noisy, so that it knows the content of soft frames too.
    """

    seed: int = 0
    text: dict[str, Any] = component("text", name="open_clip", trainable=True)
    data: dict[str, Any] = component("dataset", name="manifest", path="world", split="train")
    validation: dict[str, Any] | None = component("dataset", name="manifest", path="world", split="choose")
    batch_clips: int = 128
    soften: float = 0.0
    validation_clips: int = 256
    optim: OptimSettings = field(default_factory=OptimSettings)
    trainer: TrainerSettings = field(default_factory=lambda: TrainerSettings(max_steps=2000))
    run: RunSettings = field(default_factory=lambda: RunSettings(out="models/clip"))


@dataclass
class Encoding:
    """`kinema encode`: cache a dataset's latents, and its captions' features where the text encoder is frozen."""

    seed: int = 0
    model: str = "models/vae"
    data: dict[str, Any] = component("dataset", name="manifest", path="world", split="train")
    text: dict[str, dict[str, Any]] = component_set("text")
    out: str = "cache"
    batch_pixels: int = 589824


@dataclass
class SampleSettings:
    """Clips sampled while training, from captions of `validation`; the sampling goes into the model folder.

    `metrics` are computed where `clip` names a CLIP.
    """

    clips: int = 32
    sampler: dict[str, Any] = component("sampler", name="dpmpp_2m")
    guidance: dict[str, Any] = component("guidance", name="cfg", scale=2.0)
    num_steps: int = 20
    metrics: dict[str, dict[str, Any]] = component_set(
        "metric", clip_score={"name": "clip_score"}, fvd={"name": "fvd", "keep_features": True}
    )


@dataclass
class LoRASettings:
    """Low-rank adapters in place of all weights; rank 0: none. An adapter's output is times `alpha` / `rank` (None: 1).

    Nothing else learns, text encoders neither. The adapters are kept in the run's folder in diffusers' keys and merged
    into the model that is written.
    """

    rank: int = 0
    alpha: float | None = None
    targets: list[str] = field(default_factory=lambda: list(LORA_TARGETS))


@dataclass
class DiTTraining:
    """`kinema train dit`: a diffusion transformer on the cached latents of a VAE.

    Attributes:
        vae: model folder of the VAE that wrote the cache.
        clip: model folder of the CLIP that scores samples, or None.
        caption_drop: share of captions replaced by "", for guidance.
        caption_weights: how much more often one kind of caption is drawn than another; 1 where not given.
        keep_share: share of clips with a random keep mask, so that one model serves all tasks.
        keep_weights: how much more often one kind of mask is drawn than another, as {first: 20}; 1 where not given.
        batch_cells: latent cells of all clips of a global batch.
        sizes_per_step: how many sizes a global batch holds, leftovers aside; 1: one size at a time (buckets).
        size_weights: how often clips of a size are drawn, as {"9x32x32": 0.5}; 1 where not given.
        packs: 0, or how many packs of equal cost, each of clips of all sizes, a global batch consists of.
        pack_quadratic: cost of a pack is L + this times L^2 over its clips of L cells; about 1 / (24 x width of the
            transformer) with patches of 4 cells.
        compile: torch.compile of the transformer, once for all mixes of sizes; on a CPU it needs a C++ compiler and
            most of a minute.
    """

    seed: int = 0
    vae: str = "models/vae"
    clip: str | None = None
    cache: str = "cache"
    validation: dict[str, Any] | None = component("dataset", name="manifest", path="world", split="choose")
    text: dict[str, dict[str, Any]] = component_set("text", main={"name": "tiny"})
    dit: dict[str, Any] = component("dit", name="video_dit")
    lora: LoRASettings = field(default_factory=LoRASettings)
    diffusion: dict[str, Any] = component("diffusion", name="flow")
    batch_cells: int = 16384
    sizes_per_step: int = 2
    size_weights: dict[str, float] = field(default_factory=dict)
    packs: int = 0
    pack_quadratic: float = 0.0
    compile: bool = False
    caption_drop: float = 0.1
    caption_weights: dict[str, float] = field(default_factory=dict)
    keep_share: float = 0.3
    keep_weights: dict[str, float] = field(default_factory=dict)
    samples: SampleSettings = field(default_factory=SampleSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    trainer: TrainerSettings = field(default_factory=lambda: TrainerSettings(max_steps=10000))
    run: RunSettings = field(default_factory=lambda: RunSettings(out="models/dit"))

    def __post_init__(self) -> None:
        mask_ends(self.keep_weights)  # raises
        if self.packs % self.trainer.devices:
            raise ValueError(f"packs is {self.packs}; it is a multiple of trainer.devices, {self.trainer.devices}")
