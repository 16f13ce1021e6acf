"""The distinct noise levels of a pack: modulation is computed once for each, a clip has one or two but many tokens.

Letters: B clips, L tokens, M distinct (clip, noise level) pairs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

#: Above so many values a matrix of members costs more than it saves.
MOST_MEMBERS = 2**22


@dataclass(frozen=True)
class Levels:
    """The (clip, noise level) pairs of the tokens.

    Attributes:
        noise: (M,) of the pairs.
        clip: (M,) of the pairs.
        index: (L,) the pair of each token.
        members: (M, L), 1 where a token has the pair, else 0; None where it would be large or is not needed.
        uniform: all pairs have as many tokens, which stand together, pair after pair.
    """

    noise: Tensor
    clip: Tensor
    index: Tensor
    members: Tensor | None
    uniform: bool = False

    @classmethod
    def of(cls, noise: Tensor, clip: Tensor, *, look: bool = False) -> "Levels":
        """Of the tokens' noise levels (L,), in [0, 1], and clips (L,); `look` whether they are uniform."""
        # A clip's number and half its level (below 1) in one sortable key.
        keys, index = torch.unique(clip.double() + noise.double() / 2, return_inverse=True)
        each = len(index) // len(keys)
        uniform = look and torch.equal(index, torch.arange(len(index), device=index.device) // each)
        wanted = torch.is_grad_enabled() and not uniform and len(keys) * len(index) <= MOST_MEMBERS
        members = one_hot(index, len(keys)).T.to(noise.dtype) if wanted else None
        return cls((keys.frac() * 2).to(noise.dtype), keys.long(), index, members, uniform)

    def rows(self, table: Tensor) -> Tensor:
        """Each token's row of a table (M, D): (L, D)."""
        if self.uniform:
            # Repeating rows needs no index: a compiled graph takes it in, and its gradient is a plain sum.
            return table[:, None].expand(-1, len(self.index) // len(table), -1).flatten(0, 1)
        if self.members is None:
            return table.index_select(0, self.index)
        return _Rows.apply(table, self.index, self.members)


class _Rows(torch.autograd.Function):
    """Rows of a table, whose gradient is a matrix product: adding up row after row takes ten times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, members: Tensor) -> Tensor:
        ctx.save_for_backward(members)
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (members,) = ctx.saved_tensors
        return members.to(grad.dtype) @ grad, None, None
