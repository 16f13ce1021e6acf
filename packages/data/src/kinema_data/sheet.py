"""One picture of many clips: a row a clip, frames from left to right, the caption above."""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kinema_data.video import enlarge

_BACKGROUND = (255, 255, 255)
_INK = (20, 20, 20)
_GAP = 4
_FONT_SIZE = 13
_LINE = 17


def contact_sheet(clips: Sequence[Tensor], captions: Sequence[str] = (), *, columns: int = 8, tile: int = 96) -> Tensor:
    """A grid of clips (rows) and sampled frames (columns): (H, W, 3) uint8.

    Args:
        clips: frames (T, H, W, 3) uint8 each, any sizes.
        captions: one a clip, drawn above its row, or none at all.
        columns: at most this many frames a clip, evenly spread, first and last included; an image takes one.
        tile: side of the square a frame is fitted into: small ones grow by a whole factor, large ones shrink.

    Raises:
        ValueError: no clips, or another number of captions.
    """
    if not clips or (captions and len(captions) != len(clips)):
        raise ValueError(f"{len(clips)} clips with {len(captions)} captions: need clips, and a caption each or none")
    rows = [_tiles(clip, columns, tile) for clip in clips]
    width = max(sum(part.shape[1] + _GAP for part in row) for row in rows) + _GAP
    font = ImageFont.load_default(_FONT_SIZE)
    texts = [_wrapped(caption, width - 2 * _GAP, font) for caption in captions or [""] * len(clips)]
    heights = [_LINE * len(text) + max(part.shape[0] for part in row) for text, row in zip(texts, rows, strict=True)]
    sheet = Image.new("RGB", (width, sum(height + 2 * _GAP for height in heights)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for text, row, height in zip(texts, rows, heights, strict=True):
        for line, words in enumerate(text):
            draw.text((_GAP, top + line * _LINE), words, fill=_INK, font=font)
        left = _GAP
        for part in row:
            sheet.paste(Image.fromarray(part), (left, top + _LINE * len(text)))
            left += part.shape[1] + _GAP
        top += height + 2 * _GAP
    return torch.from_numpy(np.array(sheet))


def _tiles(clip: Tensor, columns: int, tile: int) -> list[NDArray[np.uint8]]:
    picked = torch.linspace(0, len(clip) - 1, min(columns, len(clip))).round().long()
    frames = clip.detach().cpu()[picked]
    largest = max(frames.shape[1:3])
    if largest <= tile:
        # enlarge counts in short sides: the one at which the long side still fits the tile.
        short = min(frames.shape[1:3])
        return list(enlarge(frames, short * (tile // largest)).numpy())
    size = [max(1, round(side * tile / largest)) for side in (frames.shape[2], frames.shape[1])]
    return [np.array(Image.fromarray(frame.numpy()).resize(tuple(size), Image.Resampling.BOX)) for frame in frames]


def _wrapped(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    if not caption:
        return []
    letters = max(8, int(width / (font.getlength(caption) / len(caption) + 0.01)))
    return textwrap.wrap(caption, letters)
