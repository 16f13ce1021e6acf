"""Distance of frames in the features of an image network."""

from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

#: Mean and deviation of ImageNet's pixels in [0, 1], which timm's networks expect to be taken away.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """LPIPS (Zhang et al. 2018), or the squared distance of unit features of a timm network.

    Args:
        network: "lpips" (VGG16, by torchmetrics), or the name of a timm model that gives feature maps, as
            "resnet18.a1_in1k".
        weights: a file with the timm model's weights; None: those that timm downloads.

    Raises:
        ValueError: the packages of `kinema-vae[train]` are missing, the network is unknown, or its weights are not at
            hand and cannot be downloaded.
    """

    def __init__(self, network: str = "lpips", weights: str | None = None) -> None:
        super().__init__()
        self.name = network
        try:
            self.network = _lpips() if network == "lpips" else _timm(network, weights)
        except ImportError as error:
            raise ValueError(
                f"perceptual loss {network!r} needs {error.name}: pip install 'kinema-vae[train]'"
            ) from error
        self.network.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)

    def forward(self, decoded: Tensor, video: Tensor) -> Tensor:
        """Two (B, 3, T, H, W) in about [-1, 1] -> the mean distance of their frames, a scalar."""
        self.network.eval()
        one, other = (rearrange(x, "b c t h w -> (b t) c h w") for x in (decoded, video))
        if self.name == "lpips":
            return self.network(one.clamp(-1, 1), other).mean()
        pairs = zip(*(self.network((x * 0.5 + 0.5 - self.mean) / self.deviation) for x in (one, other)), strict=True)
        unit = nn.functional.normalize
        return torch.stack([(unit(a, dim=1) - unit(b, dim=1)).square().sum(1).mean() for a, b in pairs]).sum()


def _lpips() -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # noqa: PLC0415  an extra

    try:
        # Its network alone: the metric would gather its values, and with them the graphs.
        return cast(nn.Module, LearnedPerceptualImagePatchSimilarity(net_type="vgg").net)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the weights of VGG16 for lpips are not at hand and cannot be downloaded: {error}") from error


def _timm(network: str, weights: str | None) -> nn.Module:
    import timm  # noqa: PLC0415  an extra

    if not timm.is_model(network.partition(".")[0]):
        raise ValueError(f"timm has no model {network!r}; give one of timm.list_models(), or lpips")
    try:
        model = timm.create_model(network, pretrained=weights is None, features_only=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights of {network} are not at hand and cannot be downloaded; give a file: {error}"
        ) from error
    if weights is not None:
        _load(model, network, weights)
    return cast(nn.Module, model)


def _load(model: Any, network: str, weights: str) -> None:
    from timm.models import load_state_dict  # noqa: PLC0415  an extra

    try:
        found = load_state_dict(weights)
    except OSError as error:
        raise ValueError(f"there are no weights of {network} at {weights}") from error
    missing = model.load_state_dict(found, strict=False).missing_keys
    if missing:
        raise ValueError(f"{weights} is not of {network}: {len(missing)} weights are missing, as {missing[0]}")
