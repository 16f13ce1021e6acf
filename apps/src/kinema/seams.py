"""Seams between given frames and new ones, of which only the new went through the VAE."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

#: Of the given frame's detail in the frame next to it, and from each frame to the next; and in how many frames.
SHARE, REACH = 0.8, 12
#: Pixels that something moves by from frame to frame, at most; and the side of the blocks by which it is found again.
STEP, BLOCK = 2, 5
#: Mean difference of a block's values in [-1, 1] at which it shows something else.
OTHER = 0.1


def mended(new: Tensor, given: Tensor, coded: Tensor) -> Tensor:
    """New frames with what the VAE lost of the given frame beside them: it moves along, and fades from frame to frame.

    Blocks are matched between the decoded frames, as video codecs do for motion compensation. Where none is like it,
    something else has come into view, and nothing is added.

    Args:
        new: (3, n, H, W) in [-1, 1], in the order of their distance from the given frame.
        given: (3, 1, H, W), the frame as it is.
        coded: (3, 1, H, W), the same frame after encoding and decoding.
    """
    lost, last = (given - coded)[:, 0], coded[:, 0]
    frames: list[Tensor] = []
    for frame in new[:, :REACH].unbind(1):
        lost = SHARE * _moved(lost, last, frame)
        frames.append((frame + lost).clamp(-1, 1))
        last = frame
    return torch.cat([torch.stack(frames, dim=1), new[:, REACH:]], dim=1)


def _moved(values: Tensor, last: Tensor, frame: Tensor) -> Tensor:
    """Values (3, H, W) of the last frame, at each pixel of this one those of the most similar block nearby."""
    height, width = frame.shape[1:]
    seen = pad(torch.cat([last, values])[None], (STEP,) * 4, mode="replicate")[0]
    found, least = torch.zeros_like(values), torch.full((1, height, width), torch.inf)
    steps = [(y, x) for y in range(-STEP, STEP + 1) for x in range(-STEP, STEP + 1)]
    for y, x in sorted(steps, key=lambda step: step[0] ** 2 + step[1] ** 2):  # of equals the nearest
        colours, moved = seen[:, STEP + y : STEP + y + height, STEP + x : STEP + x + width].chunk(2)
        error = (frame - colours).abs().mean(0, keepdim=True)
        error = avg_pool2d(error, BLOCK, stride=1, padding=BLOCK // 2, count_include_pad=False)
        nearer = error < least
        found, least = torch.where(nearer, moved, found), torch.where(nearer, error, least)
    return found * torch.exp(-((least / OTHER) ** 2))
