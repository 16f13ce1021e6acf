"""Sampling with fewer evaluations: a network's output is used again while it is expected to have changed little.

Letters: N latent cells of all clips, C channels.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from kinema_core import Conditioning, Net, Ragged
from torch import Tensor


@dataclass
class _Entry:
    """What is known of one clip in one branch, all (cells, C).

    Attributes:
        x: input at the last step.
        at: input at the last step that was computed.
        out: output there.
        rate: change of the output over that of the input, between the last two computed steps; None before there are.
        change: of the output since the last computed step, as expected, over its size.
    """

    x: Tensor
    at: Tensor
    out: Tensor
    rate: float | None = None
    change: float = 0.0


class StepCache:
    """The outputs of a network over one run of a sampler, computed anew where they change.

    As EasyCache (arXiv 2507.02860): how much an output changes from step to step is told from its input's change, times
    the ratio of both changes between the last two computed steps. The changes add up, and below the threshold the last
    output is used again. Each clip is judged by itself and only those that need it are computed, so alone is the same
    as in a batch. The decision of each step waits for the device. Steps with fresh noise change too much for it.

    Args:
        net: the network.
        threshold: of the expected change of an output, over its mean absolute value; above 0. 0.1 is careful.

    Raises:
        ValueError: the threshold is not above 0.
    """

    def __init__(self, net: Net, threshold: float) -> None:
        if not threshold > 0:
            raise ValueError(f"a step cache's threshold is above 0, not {threshold}")
        self.net, self.threshold = net, threshold
        self.computed = self.asked = 0  # clips
        self._entries: dict[Hashable, _Entry] = {}

    def branches(self, names: Sequence[str]) -> Net:
        """The network for packs in which the clips stand once for each of these branches."""

        def net(x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
            count = len(x) // len(names)
            keys = [(name, clip) for name in names for clip in range(count)]
            return self._run(keys, x, noise, cond)

        return net

    def _run(self, keys: Sequence[Hashable], x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
        inputs = x.values.split(x.lengths)
        due = [i for i, (key, values) in enumerate(zip(keys, inputs, strict=True)) if self._is_due(key, values)]
        self.asked += len(keys)
        self.computed += len(due)
        if due:
            clips, conds, noises = x.split(), cond.split(x.lengths), noise.split(x.lengths)
            pack = Ragged.cat([clips[i] for i in due])
            out = self.net(pack, torch.cat([noises[i] for i in due]), Conditioning.cat([conds[i] for i in due]))
            for i, values in zip(due, out.split(pack.lengths), strict=True):
                self._keep(keys[i], inputs[i], values)
        return torch.cat([self._entries[key].out for key in keys])

    def _is_due(self, key: Hashable, x: Tensor) -> bool:
        entry = self._entries.get(key)
        if entry is None or entry.rate is None:
            return True
        entry.change += entry.rate * _size(x - entry.x) / max(_size(entry.out), 1e-12)
        entry.x = x
        return entry.change >= self.threshold

    def _keep(self, key: Hashable, x: Tensor, out: Tensor) -> None:
        old = self._entries.get(key)
        rate = None if old is None else _size(out - old.out) / max(_size(x - old.at), 1e-12)
        self._entries[key] = _Entry(x, x, out, rate)


def _size(values: Tensor) -> float:
    """The mean absolute value."""
    return values.abs().mean().item()
