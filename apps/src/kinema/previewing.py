"""A small clip first, then the same composition at full size."""

from dataclasses import replace

from kinema_core import Clip
from torch.nn.functional import interpolate

from kinema.editing import edit
from kinema.pipeline import Pipeline, Request


def preview(pipeline: Pipeline, request: Request, *, factor: int = 2, seed: int = 0) -> Clip:
    """The clip that is asked for, with each side divided by `factor`.

    Raises:
        ValueError: the factor is below 2.
    """
    if factor < 2:
        raise ValueError(f"a preview's factor is at least 2, not {factor}")
    height, width = (-(-side // factor) for side in (request.height, request.width))
    (clip,) = pipeline.generate([replace(request, height=height, width=width)], seed=seed)
    return clip


def full_size(pipeline: Pipeline, small: Clip, request: Request, *, strength: float = 0.7, seed: int = 0) -> Clip:
    """The clip that is asked for, with the composition of a preview: that one enlarged, and drawn anew by SDEdit.

    Args:
        pipeline: the model.
        small: the preview.
        request: as the preview was made from.
        strength: from 0, the enlarged preview, to 1, a clip of its own.
        seed: of the noise.

    Raises:
        ValueError: a strength outside [0, 1].
    """
    frames = small.video.transpose(0, 1)
    large = interpolate(frames, (request.height, request.width), mode="bicubic").clamp(-1, 1).transpose(0, 1)
    return edit(pipeline, replace(small, video=large), request.prompt, strength=strength, seed=seed)
