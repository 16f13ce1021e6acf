"""Reading images from files that nobody vouches for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kinema_data.files import BadClip, Limits, check_size, shrunk_size

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")


def is_image(path: str) -> bool:
    """Whether a file of this name is read as an image; all others are read as videos."""
    return path.lower().endswith(_SUFFIXES)


@contextmanager
def opened_image(file: BinaryIO, path: str, limits: Limits) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            check_size(image.height, image.width, path, limits)
            yield image
    except BadClip:
        raise
    except Image.DecompressionBombError as error:
        raise BadClip("too_large", path, str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise BadClip("unreadable", path, f"cannot be read as png, jpeg or webp: {error}") from error


def read_image(file: BinaryIO, path: str, max_pixels: int | None, limits: Limits) -> Tensor:
    """(1, H, W, 3); alpha is dropped."""
    with opened_image(file, path, limits) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    height, width = shrunk_size(upright.height, upright.width, max_pixels)
    if (width, height) != upright.size:
        upright = upright.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(upright))[None]
