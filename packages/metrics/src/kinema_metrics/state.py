"""The base of our metrics: a `torchmetrics.Metric` whose states keep their precision.

A metric that has to be right under `Trainer(precision="bf16-true")` cannot let its sums be cast with the module that
holds it, and must not add the scored network's weights to a checkpoint.
"""

from abc import ABC
from collections.abc import Callable
from typing import Any

import torch
import torchmetrics
from kinema_core import Metric
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors


class ScoringMetric(torchmetrics.Metric, Metric, ABC):
    """A `kinema_core.Metric` with states summed in float64 and exact over ranks.

    `.to(device)` moves the states, `.to(dtype)` leaves them alone. Over ranks `compute` sees all clips; move the metric
    to the device of the process group first (NCCL needs CUDA states).
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, tuple[int, torch.dtype]] = {}

    def add_sum(self, name: str, *shape: int) -> None:
        """A float64 tensor that starts at 0 and is summed over ranks."""
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def add_count(self, name: str) -> None:
        """A whole number that starts at 0 and is summed over ranks."""
        self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add_rows(self, name: str, width: int, dtype: torch.dtype = torch.float64) -> None:
        """A list of (n, width), joined over ranks, where some ranks may hold none."""
        self.add_state(name, [], dist_reduce_fx="cat")
        self._rows[name] = (width, dtype)

    def rows(self, name: str) -> Tensor:
        """All rows of a state made by `add_rows`, (n, width)."""
        width, dtype = self._rows[name]
        found = getattr(self, name)
        # After a synchronisation torchmetrics holds the joined tensor in place of the list.
        return found if isinstance(found, Tensor) else torch.cat([self._empty(width, dtype), *found])

    def _empty(self, width: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(0, width, dtype=dtype, device=self.device)

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        # For a rank without rows torchmetrics sends a float32 vector, which does not join the other ranks' matrices.
        for name in self._rows:
            setattr(self, name, [self.rows(name)])
        super()._sync_dist(dist_sync_fn, process_group)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> nn.Module:
        def move(state: Tensor) -> Tensor:
            return state.to(fn(state.new_zeros(1)).device)

        return super()._apply(move, exclude_state)
