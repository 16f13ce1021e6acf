"""Equal hashes for equal weights only."""

import torch
from torch import nn

from kinema_core import weights_hash


def test_weights_hash() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    first = weights_hash(net.state_dict())
    assert first == weights_hash(dict(reversed(net.state_dict().items())))
    with torch.no_grad():
        net[0].bias[2] += 1e-7
    assert first != weights_hash(net.state_dict())
    assert weights_hash({"a": torch.zeros(2)}) != weights_hash({"a": torch.zeros(2, dtype=torch.int32)})
