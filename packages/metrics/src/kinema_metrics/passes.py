"""Clips through a frozen network: equal sizes together, 8-bit values, evaluation mode, full precision.

Letters: B clips, T H W frames, rows, columns in pixels, F features.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from kinema_core import Clip, FeatureExtractor, device_of
from torch import Tensor, nn


def eight_bit(video: Tensor) -> Tensor:
    """Values in [-1, 1] clamped and rounded to the 256 levels a file holds.

    Decoded clips are left as they are, so that real and generated ones differ in content only.
    """
    return ((video.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def batches(clips: Sequence[Clip], batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Indices and stacked videos (B, 3, T, H, W), `eight_bit`, of clips of one size, at most `batch_size` of them."""
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        by_size[tuple(clip.video.shape)].append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            yield chosen, eight_bit(torch.stack([clips[i].video.float() for i in chosen]))


def video_features(extractor: FeatureExtractor, clips: Sequence[Clip], *, batch_size: int = 16) -> Tensor:
    """Features (B, F) of clips of any sizes, in their order, on the extractor's device.

    Raises:
        ValueError: features that are not finite; the message names the clip.
    """
    rows: list[Tensor] = [torch.empty(0)] * len(clips)
    with frozen(extractor) as device:
        for indices, video in batches(clips, batch_size):
            for index, row in zip(indices, extractor(video.to(device)), strict=True):
                if not torch.isfinite(row).all():
                    raise ValueError(f"the features of clip {clips[index].id!r} hold NaN or infinity")
                rows[index] = row
    return torch.stack(rows) if rows else torch.zeros(0, extractor.num_features)


@contextmanager
def frozen(network: nn.Module) -> Iterator[torch.device]:
    """Evaluate `network` without gradients, dropout or autocast, and leave every module's mode as it was.

    Yields:
        The device of its weights.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    device = device_of(network)
    try:
        # Under a bf16 trainer autocast would cost the features three digits.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield device
    finally:
        for module, mode in modes:
            module.training = mode
