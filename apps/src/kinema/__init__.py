"""Kinema: trains and runs latent video diffusion transformers from packages that are combined by config."""

from importlib import import_module
from typing import Any

__all__ = [
    "EMA",
    "BatchPosition",
    "BudgetDataModule",
    "CLIPModule",
    "Checkpointing",
    "ConfigError",
    "DiTModule",
    "MlflowTracker",
    "Pipeline",
    "Request",
    "UserError",
    "VAEModule",
    "build",
    "component",
    "component_set",
    "load_config",
    "load_model",
    "open_run",
    "save_model",
]

_HOMES = {
    "kinema.checkpointing": ("BatchPosition", "Checkpointing"),
    "kinema.components": ("build",),
    "kinema.config": ("component", "component_set", "load_config"),
    "kinema.ema": ("EMA",),
    "kinema.errors": ("ConfigError", "UserError"),
    "kinema.model_folder": ("load_model", "save_model"),
    "kinema.pipeline": ("Pipeline", "Request"),
    "kinema.runs": ("open_run",),
    "kinema.tracking": ("MlflowTracker",),
    "kinema.training.clip_module": ("CLIPModule",),
    "kinema.training.data_module": ("BudgetDataModule",),
    "kinema.training.dit_module": ("DiTModule",),
    "kinema.training.vae_module": ("VAEModule",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command must not wait for torch, Lightning and MLflow."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'kinema' has no attribute {name!r}")
