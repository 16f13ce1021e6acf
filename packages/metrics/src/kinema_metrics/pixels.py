"""Measures on pixels, one value a clip. Letters: B clips, T H W frames, rows, columns in pixels; values in [-1, 1]."""

import torch
from einops import rearrange
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

RANGE = 2.0  # from -1 to 1


def psnr(video: Tensor, reference: Tensor) -> Tensor:
    """The peak signal-to-noise ratio in dB of (B, 3, T, H, W) against the same: (B,); infinite where they are equal.

    10 log10(2^2 / mean squared difference), of the whole clip: the frames' errors are averaged before the logarithm.

    Raises:
        ValueError: the shapes differ.
    """
    _check_pair(video, reference)
    error = (video.double() - reference.double()).square().flatten(1).mean(1)
    return 10 * (RANGE**2 / error).log10()


def ssim(video: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over the frames of (B, 3, T, H, W) against the same: (B,).

    Raises:
        ValueError: the shapes differ, or a side is shorter than the window of 11 pixels.
    """
    _check_pair(video, reference)
    if min(video.shape[-2:]) < 11:
        raise ValueError(f"frames of {video.shape[-2]} x {video.shape[-1]} are smaller than the window of 11 pixels")
    frames, others = (rearrange(x.float(), "b c t h w -> (b t) c h w") for x in (video, reference))
    values = structural_similarity_index_measure(frames, others, data_range=RANGE, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(len(video), -1).mean(1)


def frame_difference(video: Tensor) -> Tensor:
    """The mean |difference| of neighbouring frames of (B, 3, T, H, W), in parts of the value range: (B,) in [0, 1].

    0 for an image. 1 minus it is VBench's temporal flickering score, meant for scenes that stand still.
    """
    if video.shape[2] == 1:
        return video.new_zeros(len(video))
    return video.diff(dim=2).abs().flatten(1).mean(1) / RANGE


def seam_ratio(video: Tensor, tile: tuple[int, int]) -> Tensor:
    """How much more a video (B, 3, T, H, W) changes across the borders of tiles than beside them: (B,); 1 is no seam.

    The mean |difference| of the two pixels on either side of a border over that of the pairs before and after it. A
    picture has edges of its own there: compare with the same ratio of the original.

    Args:
        tile: rows and columns of a tile, which begin in the upper left corner.
    """
    across, beside = video.new_zeros(len(video)), video.new_zeros(len(video))
    for dim, size in ((3, tile[0]), (4, tile[1])):
        steps = video.diff(dim=dim).abs().movedim(dim, 1)  # step i is between pixels i and i + 1
        borders = [i for i in range(size - 1, steps.shape[1] - 1, size) if i > 0]
        across = across + steps[:, borders].flatten(1).sum(1)
        for shift in (-1, 1):
            beside = beside + steps[:, [i + shift for i in borders]].flatten(1).sum(1) / 2
    return torch.where(beside > 0, across / beside.clamp(min=1e-12), torch.ones_like(beside))


def _check_pair(video: Tensor, reference: Tensor) -> None:
    if video.shape != reference.shape:
        raise ValueError(f"a video {tuple(video.shape)} cannot be compared with one of {tuple(reference.shape)}")
