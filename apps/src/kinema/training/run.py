"""`kinema train`: builds what the config names, fits it, and writes a model folder."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from kinema_core import (
    TextEncoder,
    VideoVAE,
    datasets,
    diffusions,
    dits,
    guidances,
    samplers,
    text_encoders,
    vaes,
    weights_hash,
)
from kinema_data import CachedLatents
from kinema_dit import NoiseExperts, VideoDiT, add_lora, merge_lora, save_lora
from kinema_vae.training import PatchDiscriminator, PerceptualLoss
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from kinema.checkpointing import BatchPosition, Checkpointing
from kinema.components import build, derived_widths, origins
from kinema.config import load_config, print_config, validate_components
from kinema.ema import EMA
from kinema.errors import UserError
from kinema.model_folder import load_model, save_model
from kinema.pipeline import Pipeline
from kinema.runs import Run, new_run_id, open_run
from kinema.scoring import build_metrics, load_clip
from kinema.sizes import parse_size
from kinema.text_cache import CachedText, encoder_hash
from kinema.tracking import MlflowTracker
from kinema.training.clip_module import CLIPModule
from kinema.training.data_module import BudgetDataModule, Remembered, pixels, readable
from kinema.training.dit_module import DiTModule, LatentBatch
from kinema.training.evaluations import Evaluation, Measure, measure_clip, measure_samples, measure_vae
from kinema.training.optim import MakeOptimiser, MuonAdamW, trapezoid
from kinema.training.schedule import ProgressLine, Schedule
from kinema.training.settings import CLIPTraining, DiTTraining, OptimSettings, RunSettings, TrainerSettings, VAETraining
from kinema.training.vae_module import FiniteSteps, VAELoss, VAEModule, whiten

T = TypeVar("T", VAETraining, CLIPTraining, DiTTraining)


def train_vae(
    file: str | None, overrides: Sequence[str] = (), *, resume: str | None = None, print_only: bool = False
) -> None:
    """Train a VAE, whiten its latents over training clips, and write the model folder `run.out`."""
    config = _configured(VAETraining, file, overrides, print_only)
    if config is None:
        return
    vae = build(vaes, config.vae)
    dataset = Remembered(build(datasets, config.data))
    module = _vae_module(vae, config)
    position = BatchPosition()
    data = BudgetDataModule(
        dataset,
        pixels,
        budget=config.batch_pixels,
        seed=config.seed,
        sizes_per_step=config.sizes_per_step,
        position=position,
    )
    validation = _some(config.validation, config.validation_clips)

    def finish(trainer: pl.Trainer, run: Run) -> None:
        whiten(vae.eval(), readable(dataset, config.whitening_clips))
        save_model(config.run.out, {"vae": (config.vae, vae)}, facts=_facts(config, trainer, run))

    _fit("vae", config, module, data, position, measure_vae(vae, validation), finish, resume, more=[FiniteSteps()])


def train_clip(
    file: str | None, overrides: Sequence[str] = (), *, resume: str | None = None, print_only: bool = False
) -> None:
    """Train the CLIP inside a text encoder on captions and frames, and write the model folder `run.out`."""
    config = _configured(CLIPTraining, file, overrides, print_only)
    if config is None:
        return
    encoder = build(text_encoders, config.text)
    if getattr(encoder, "image_text", None) is None:
        raise UserError(f"text {config.text['name']!r} holds no CLIP to train; text.name=open_clip does")
    module = CLIPModule(encoder.image_text, soften=config.soften, seed=config.seed, optimiser=_optimiser(config.optim))
    encoder.image_text.requires_grad_(True)
    position = BatchPosition()
    data = BudgetDataModule(
        Remembered(build(datasets, config.data)),
        lambda _: 1,
        budget=config.batch_clips,
        seed=config.seed,
        sizes_per_step=8,
        position=position,
    )
    validation = _some(config.validation, config.validation_clips)

    def finish(trainer: pl.Trainer, run: Run) -> None:
        frozen = {**config.text, "trainable": False}
        save_model(config.run.out, {"text": (frozen, encoder)}, facts=_facts(config, trainer, run))

    _fit("clip", config, module, data, position, measure_clip(encoder.image_text, validation), finish, resume)


def train_dit(
    file: str | None, overrides: Sequence[str] = (), *, resume: str | None = None, print_only: bool = False
) -> None:
    """Train a diffusion transformer on cached latents, and write the whole model as the folder `run.out`."""
    config = _configured(DiTTraining, file, overrides, print_only)
    if config is None:
        return
    saved = load_model(config.vae, require=["vae"])
    (vae,) = saved.of_kind("vae")
    cache = CachedLatents(config.cache, expect={"vae": weights_hash(vae.state_dict())})
    text = [build(text_encoders, node) for node in config.text.values()]
    dit = build(dits, config.dit, **derived_widths(vae, text))
    if config.lora.rank:
        if not isinstance(dit, VideoDiT):
            raise UserError(f"lora is for dit.name=video_dit, not {config.dit['name']}")
        add_lora(dit, config.lora.rank, alpha=config.lora.alpha, targets=config.lora.targets)
        for encoder in text:
            encoder.requires_grad_(False)
    if config.compile:
        dit.compile()
    law = build(diffusions, config.diffusion)
    module = DiTModule(
        dit,
        [_with_stored_features(encoder, cache) for encoder in text],
        law,
        caption_drop=config.caption_drop,
        caption_weights=config.caption_weights,
        keep_share=config.keep_share,
        keep_weights=config.keep_weights,
        seed=config.seed,
        optimiser=_optimiser(config.optim),
    )
    position = BatchPosition()
    data = BudgetDataModule(
        cache,
        lambda info: prod(vae.latent_grid(info.frames, info.height, info.width)),
        budget=config.batch_cells,
        assemble=LatentBatch.of,
        seed=config.seed,
        sizes_per_step=config.sizes_per_step,
        weights={parse_size(key): weight for key, weight in config.size_weights.items()},
        packs=config.packs,
        quadratic=config.pack_quadratic,
        position=position,
    )
    pipeline = Pipeline(
        vae=vae,
        text=tuple(module.text),
        dit=dit,
        law=law,
        sampler=build(samplers, config.samples.sampler),
        guidance=build(guidances, config.samples.guidance),
        num_steps=config.samples.num_steps,
    )
    validation = _some(config.validation, config.samples.clips)
    clip = load_clip(config.clip)
    scores = build_metrics(config.samples.metrics, clip) if clip else {}

    def finish(trainer: pl.Trainer, run: Run) -> None:
        if config.lora.rank:
            save_lora(dit, run.folder / "pytorch_lora_weights.safetensors")  # diffusers' name
            merge_lora(dit)
        components = {
            "vae": (saved.nodes["vae"], vae),
            **{f"text.{label}": (config.text[label], e) for label, e in zip(config.text, text, strict=True)},
            "dit": (config.dit, dit),
            "diffusion": (config.diffusion, law),
            "sampler": (config.samples.sampler, pipeline.sampler),
            "guidance": (config.samples.guidance, pipeline.guidance),
        }
        facts = {**_facts(config, trainer, run), "num_steps": config.samples.num_steps}
        save_model(config.run.out, components, facts=facts)

    measure = measure_samples(pipeline, validation, scores)
    tags = origins({"vae": ("vae", saved.nodes["vae"]["name"])})
    _fit("dit", config, module, data, position, measure, finish, resume, tags)


def _fit(
    kind: str,
    config: VAETraining | CLIPTraining | DiTTraining,
    module: pl.LightningModule,
    data: BudgetDataModule,
    position: BatchPosition,
    measure: Measure,
    finish: Callable[[pl.Trainer, Run], None],
    resume: str | None,
    tags: Mapping[str, str] | None = None,
    more: Sequence[pl.Callback] = (),
) -> None:
    """What all trainings share: the run's folder and record, the schedule, EMA, checkpoints, and the fit itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips are not ours
    settings, run = config.trainer, _open(kind, config.run, resume)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    tracker = MlflowTracker(run.folder, experiment=config.run.experiment, uri=config.run.tracking_uri)
    tracker.log_config(config)
    tracker.log_tags({"kinema.run": run.id, "kinema.kind": kind, **(tags or {})})
    schedule = Schedule(
        trapezoid(config.optim.warmup, config.optim.decay),
        max_steps=settings.max_steps,
        max_minutes=settings.max_minutes,
    )
    ema = EMA(settings.ema)
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=_strategy(settings, module),
        precision=settings.precision,
        max_epochs=-1,
        gradient_clip_val=settings.clip_norm,
        log_every_n_steps=settings.log_every,
        logger=tracker,
        callbacks=[
            schedule,
            ema,
            position,
            *more,
            ProgressLine(schedule),
            Evaluation(measure, ema, schedule, every=settings.evaluate_every),
            Checkpointing(run.folder, every_minutes=settings.checkpoint_minutes),
        ],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        default_root_dir=run.folder,
    )
    run.check(module)
    trainer.fit(module.train(), data, ckpt_path=run.checkpoint_path, weights_only=True)
    if trainer.is_global_zero:
        with ema.swapped(module):
            finish(trainer, run)
        tracker.log_metrics({"skipped_clips": len(data.skips.skipped)}, trainer.global_step)
        tracker.finalize("success")
        print(f"wrote {config.run.out}; run {run.id} is in {run.folder} and in MLflow")
    run.close()
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        for process in launcher.procs:  # else the other ranks outlive the command
            process.wait()


def _vae_module(vae: VideoVAE, config: VAETraining) -> VAEModule:
    perceptual, gan = config.perceptual, config.gan
    try:
        network = PerceptualLoss(perceptual.network, perceptual.weights) if perceptual.weight else None
    except ValueError as error:
        raise UserError(f"perceptual: {error}") from error
    return VAEModule(
        vae,
        weights=VAELoss(
            l1=config.l1,
            kl=config.kl,
            wavelet=config.wavelet,
            flicker=config.flicker,
            perceptual=perceptual.weight,
            gan=gan.weight,
            gan_start=gan.start,
        ),
        perceptual=network,
        discriminator=PatchDiscriminator(gan.width, gan.layers) if gan.weight else None,
        seed=config.seed,
        optimiser=_optimiser(config.optim),
    )


def _configured(schema: type[T], file: str | None, overrides: Sequence[str], print_only: bool) -> T | None:
    """The config, checked; None after printing it."""
    config = load_config(schema, file, overrides)
    validate_components(config)
    if print_only:
        print_config(config)
        return None
    pl.seed_everything(config.seed, verbose=False)
    return config


def _open(kind: str, settings: RunSettings, resume: str | None) -> Run:
    """The run; its id passes to the other ranks, which Lightning starts as copies of this process."""
    if settings.id is None and resume is None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            os.environ["KINEMA_RUN_ID"] = new_run_id(kind)
        settings.id = os.environ.get("KINEMA_RUN_ID")
    return open_run(kind, root=settings.dir, run_id=settings.id, resume=resume)


def _strategy(settings: TrainerSettings, module: pl.LightningModule) -> str | DDPStrategy:
    if settings.devices == 1:
        return "auto"
    # Of a pair of experts one may have no clips in a step.
    pair = any(isinstance(part, NoiseExperts) for part in module.modules())
    backend = "gloo" if settings.accelerator == "cpu" else None
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=pair)


def _optimiser(settings: OptimSettings) -> MakeOptimiser:
    return partial(
        MuonAdamW,
        lr=settings.lr,
        muon_lr=settings.muon_lr,
        betas=settings.betas,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def _some(node: dict[str, Any] | None, count: int) -> list[Any]:
    """The first clips of a dataset, decoded; none without a dataset."""
    return [] if node is None else readable(build(datasets, node), count)


def _facts(config: VAETraining | CLIPTraining | DiTTraining, trainer: pl.Trainer, run: Run) -> dict[str, Any]:
    return {"run": run.id, "steps": trainer.global_step, "seed": config.seed}


def _with_stored_features(encoder: TextEncoder, cache: CachedLatents) -> TextEncoder | CachedText:
    """A frozen encoder with the features that the cache holds of it; one that learns as it is."""
    if encoder.trainable:
        return encoder
    hashes, own = cache.made_by.get("text", []), encoder_hash(encoder)
    if own not in hashes:
        if hashes:
            print(f"{cache.folder} holds text features of other encoders; this run computes its own")
        return CachedText(encoder)
    stream = hashes.index(own)
    return CachedText(encoder, lambda text: cache.text([text])[stream] if cache.has_text(text) else None)
