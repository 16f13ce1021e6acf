"""The exponential moving average of the weights, as a callback that works under every strategy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class EMA(pl.Callback):
    """Averages every parameter that is trained: ema <- d ema + (1 - d) weight after each optimiser step.

    d = min(decay, (1 + n) / (10 + n)) after n steps, so that an early average forgets the start. Sharded weights
    (DTensors) are averaged shard by shard; Lightning's own averaging copies the module, which FSDP2 refuses.

    Args:
        decay: d in the long run.
        every_n_steps: optimiser steps between updates; n counts updates.
    """

    def __init__(self, decay: float = 0.999, *, every_n_steps: int = 1) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it has to be at least 0 and below 1")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}; it starts at 1")
        self.decay = decay
        self.every_n_steps = every_n_steps
        self.num_updates = 0
        self._average: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}
        self._seen_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights, or with the average of the checkpoint."""
        self._begin(pl_module)
        self._seen_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Update if an optimiser step was done."""
        # Two optimisers count two steps a batch, so a multiple may be stepped over.
        before, self._seen_step = self._seen_step, trainer.global_step
        if self._seen_step // self.every_n_steps > before // self.every_n_steps:
            self.update(pl_module)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the module's weights of this moment into the average."""
        self._begin(module)
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        weights = {name: weight.to(self._average[name].dtype) for name, weight in _trained(module).items()}
        torch._foreach_lerp_([self._average[name] for name in weights], list(weights.values()), 1 - decay)
        self.num_updates += 1

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Inside the block the module has the averaged weights."""
        self._begin(module)
        weights = _trained(module)
        with torch.no_grad():
            trained = {name: weight.clone() for name, weight in weights.items()}
            for name, weight in weights.items():
                weight.copy_(self._average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(trained[name])

    def state_dict(self) -> dict[str, Any]:
        """The whole average, also of sharded weights: all ranks have to call it, as Lightning does."""
        return {
            "num_updates": self.num_updates,
            "average": {name: _whole(value) for name, value in (self._average or self._loaded).items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the average for the start of training, when the weights are where they belong."""
        self.num_updates = state_dict["num_updates"]
        self._loaded = state_dict["average"]
        self._average = {}

    @torch.no_grad()
    def _begin(self, module: nn.Module) -> None:
        if self._average:
            return
        weights = _trained(module)
        if self._loaded and self._loaded.keys() != weights.keys():
            differing = sorted(self._loaded.keys() ^ weights.keys())
            raise ValueError(f"the checkpoint's average is of other weights: {', '.join(differing[:5])}")
        for name, weight in weights.items():
            self._average[name] = _placed(self._loaded.get(name, weight), weight)
        self._loaded = {}


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """A copy of `value` on the device and with the sharding of `like`; half precision is too coarse to average in."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if isinstance(like, DTensor) and not isinstance(value, DTensor):
        value = distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.detach().to(like.device, dtype, copy=True)
