"""Clips and their captions as one picture."""

from collections.abc import Sequence

from kinema_core import Clip
from kinema_data import contact_sheet, to_uint8
from torch import Tensor


def sheet(clips: Sequence[Clip]) -> Tensor:
    """A row a clip, its first caption above: (H, W, 3) uint8. Raises ValueError without clips."""
    return contact_sheet([to_uint8(c.video) for c in clips], [next(iter(c.captions.values()), "") for c in clips])
