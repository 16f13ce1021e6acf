"""Images of any size as the squares that a CLIP sees."""

from torch import Tensor
from torch.nn.functional import interpolate


def fitted(images: Tensor, size: int, *, crop: bool) -> Tensor:
    """Antialiased bicubic resizing, (B, 3, H, W) in [-1, 1] -> (B, 3, size, size) in [-1, 1].

    Args:
        images: any size.
        size: of the square in pixels.
        crop: bring the shorter side to `size` and cut the middle out of the longer one; else all of it is squashed.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    short = min(height, width)
    target = (size * height // short, size * width // short) if crop else (size, size)
    images = interpolate(images, target, mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (round((side - size) / 2) for side in target)
    return images[..., top : top + size, left : left + size]
