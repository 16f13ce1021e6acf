"""Muon for matrices and AdamW for the rest, in one optimiser, and the learning-rate schedule.

torch.optim.Muon refuses convolution weights and orthogonalises in bfloat16, which CPUs without instructions for it
compute a hundred times slower than float32; this one takes 2-D views, works on all matrices of one shape at once, and
chooses the precision by the machine.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from kinema.placement import bf16_in_hardware

# Quintic Newton-Schulz coefficients of Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class MuonAdamW(Optimizer):
    """Muon for the groups with `muon=True`, AdamW for the others.

    Muon's update is an orthogonal matrix times sqrt(max(1, rows / columns)), as in its author's code, so that features
    of deviation 1 change by about `muon_lr` whatever the shape.

    Args:
        groups: as of `matrix_groups`.
        lr: AdamW's learning rate.
        muon_lr: Muon's.
        betas: AdamW's; Muon uses `momentum`.
        momentum: Muon's, with Nesterov's step.
        weight_decay: decoupled, for both.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        muon_lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.98),
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "momentum": momentum, "weight_decay": weight_decay, "muon": False}
        rates = {True: muon_lr, False: lr}
        super().__init__([{**group, "lr": rates[group.get("muon", False)]} for group in groups], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["muon"] else self._adamw)(params, group)
        return loss

    def _muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params]
        moments = [self._slot(p, "momentum") for p in params]
        torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, moments, group["momentum"])
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p, update in zip(params, updates, strict=True):
            matrix = update.flatten(1)
            by_shape[matrix.shape[0], matrix.shape[1]].append((p, matrix))
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        stacks = [torch.stack([matrix for _, matrix in members]) for members in by_shape.values()]
        for (shape, members), directions in zip(by_shape.items(), _by_all_ranks(stacks), strict=True):
            step = -group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
            for (p, _), direction in zip(members, directions.to(members[0][0].dtype), strict=True):
                p.add_(direction.view_as(p), alpha=step)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params],
            [self._slot(p, "first") for p in params],
            [self._slot(p, "second") for p in params],
            [],
            [self.state[p].setdefault("step", torch.zeros(())) for p in params],
            foreach=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _slot(self, p: Tensor, name: str) -> Tensor:
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(p)
        return state[name]


#: What a module is given to make its optimiser of parameter groups.
MakeOptimiser = Callable[[Iterable[dict[str, Any]]], Optimizer]
DEFAULT_OPTIMISER: MakeOptimiser = partial(MuonAdamW, lr=1e-3)


def orthogonalised(matrices: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """Roughly the nearest semi-orthogonal matrices to (K, rows, columns), by Newton-Schulz iteration.

    Muon iterates X <- (a + b G + c G^2) X with G = X X^T.

    Args:
        matrices: (K, rows, columns).
        steps: of the iteration.
        dtype: to compute in; None: bfloat16 where the device has it in hardware, else float32.
    """
    x = matrices.to(dtype or (torch.bfloat16 if bf16_in_hardware(matrices.device) else torch.float32))
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram = x @ x.transpose(1, 2)
    if x.element_size() >= torch.float32.itemsize:
        # All these factors are polynomials of the first G, so they are multiplied up at G's small size and meet X once:
        # half the arithmetic for a matrix four times as long as wide.
        total = factor = _factor(gram)
        for _ in range(steps - 1):
            gram = factor @ gram @ factor
            factor = _factor(gram)
            total = factor @ total
        x = total @ x
    else:
        # In half precision what G has lost by rounding would grow with every factor, to singular values of tens where
        # those of the matrix are far apart: each has to begin at X.
        for step in range(steps):
            x = _factor(gram) @ x
            if step < steps - 1:
                gram = x @ x.transpose(1, 2)
    return x.transpose(1, 2) if tall else x


def _factor(gram: Tensor) -> Tensor:
    a, b, c = NEWTON_SCHULZ
    factor = torch.baddbmm(b * gram, gram, gram, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


def _by_all_ranks(stacks: list[Tensor]) -> list[Tensor]:
    """Each stack (K, rows, columns) `orthogonalised`, each rank doing its share: all have the same gradients anyway."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    if world == 1:
        return [orthogonalised(stack) for stack in stacks]
    mine = []
    for stack in stacks:
        share = -(-len(stack) // world)
        padded = torch.cat([stack, stack[:1].expand(share * world - len(stack), *stack.shape[1:])])
        mine.append(orthogonalised(padded[dist.get_rank() * share :][:share]))
    # All in one message: ranks that are not equally far wait at each.
    sent = torch.cat([part.flatten() for part in mine])
    received = sent.new_empty(world, len(sent))
    dist.all_gather(list(received), sent)
    parts = received.split([part.numel() for part in mine], dim=1)
    return [
        part.reshape(-1, *stack.shape[1:])[: len(stack)] for part, stack in zip(parts, stacks, strict=True)
    ]  # fmt: skip


def matrix_groups(module: nn.Module, outer: Iterable[nn.Module] = ()) -> list[dict[str, Any]]:
    """The trainable parameters as two groups for `MuonAdamW`: weights inside the network, and the rest.

    Muon suits weights that map features to features; embeddings and the modules in `outer` (first and last layers),
    biases, norms and tables go to AdamW.
    """
    outside = {id(p) for layer in outer for p in layer.parameters()}
    inside = {
        id(layer.weight)
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d) and id(layer.weight) not in outside
    }
    params = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if id(p) in inside], "muon": True},
        {"params": [p for p in params if id(p) not in inside], "muon": False},
    ]


def trapezoid(warmup: float, decay: float) -> Callable[[float], float]:
    """Learning-rate factor over progress in [0, 1]: a linear rise over `warmup`, 1, a linear fall to 0 over `decay`."""

    def factor(progress: float) -> float:
        rise = min(1.0, progress / warmup) if warmup else 1.0
        return rise * min(1.0, max(0.0, (1 - progress) / decay)) if decay else rise

    return factor
