"""Seams between given frames and new ones, of which only the new went through the VAE."""

import torch
from torch import Tensor

#: Of the given frame's detail in the frame next to it, and from each frame to the next; and in how many frames.
SHARE, REACH = 0.7, 12
#: Change of a value in [-1, 1] at which a pixel shows something else.
MOVED = 0.2


def mended(new: Tensor, given: Tensor, coded: Tensor) -> Tensor:
    """New frames with what the VAE lost of the given frame beside them, where the picture has stood still since.

    What is lost fades from frame to frame. Where it is another colour by now, nothing is added: what was seen there has
    moved on, and would be a ghost.

    Args:
        new: (3, n, H, W) in [-1, 1], in the order of their distance from the given frame.
        given: (3, 1, H, W), the frame as it is.
        coded: (3, 1, H, W), the same frame after encoding and decoding.
    """
    near, rest = new[:, :REACH], new[:, REACH:]
    shares = SHARE ** torch.arange(1, near.shape[1] + 1).view(-1, 1, 1)
    still = torch.exp(-(((near - coded).abs().amax(0) / MOVED) ** 2))  # (n, H, W)
    return torch.cat([(near + shares * still * (given - coded)).clamp(-1, 1), rest], dim=1)
