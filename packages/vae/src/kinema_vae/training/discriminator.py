"""A discriminator of video patches, its loss, and the weight that balances it against reconstruction."""

import torch
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Judges every patch of a video (Isola et al. 2017, in 3D). No statistics over a batch; an image is one frame.

    Args:
        width: channels of the first layer, doubled in each of the others up to eight times.
        num_layers: how often rows and columns are halved; a patch is about 2^(num_layers + 2) pixels wide.
    """

    def __init__(self, width: int = 32, num_layers: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(3, width, (3, 4, 4), (1, 2, 2), 1), nn.LeakyReLU(0.2)]
        for i in range(1, num_layers + 1):
            before, after = (width * min(2**k, 8) for k in (i - 1, i))
            stride = 2 if i < num_layers else 1
            layers += [nn.Conv3d(before, after, (3, 4, 4), (1, stride, stride), 1), nn.GroupNorm(1, after)]
            layers.append(nn.LeakyReLU(0.2))
        self.body = nn.Sequential(*layers, nn.Conv3d(after, 1, (3, 3, 3), 1, 1))

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1], H and W at least 32 -> a score for each patch (B, 1, T, H', W')."""
        return self.body(video)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss (Lim and Ye 2017): 0 where every score is beyond 1 on its own side."""
    return 0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, most: float = 1e4) -> Tensor:
    """|d reconstruction / d last_layer| / |d adversarial / d last_layer| (Esser et al. 2021), at most `most`.

    Both losses then pull at the decoder's last layer with equal force.
    """
    (one,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (other,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (one.norm() / (other.norm() + 1e-6)).clamp(max=most).detach()
