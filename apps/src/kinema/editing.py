"""Editing a video by SDEdit: noised part-way and denoised towards another prompt, everywhere or outside a region."""

from dataclasses import replace

import torch
from kinema_core import Clip
from kinema_sampling import SDEditSampler
from torch import Tensor
from torch.nn.functional import pad

from kinema.pipeline import Pipeline, Request


def edit(
    pipeline: Pipeline, clip: Clip, prompt: str, *, strength: float = 0.6, keep: Tensor | None = None, seed: int = 0
) -> Clip:
    """The clip changed towards the prompt.

    Args:
        pipeline: the model.
        clip: any number of frames: what is no whole latent is filled with copies of the last one and cut off again.
        prompt: what is to be seen.
        strength: from 0, the clip as it is, to 1, where nothing is left of what is not kept (SDEdit).
        keep: (H, W) bool, pixels that stay as they are in all frames; None: none.
        seed: of the noise.

    Raises:
        ValueError: a strength outside [0, 1], or a region of another size.
    """
    sampler = SDEditSampler(base=pipeline.sampler, strength=strength)  # raises
    count, height, width = clip.video.shape[1:]
    if keep is not None and tuple(keep.shape) != (height, width):
        raise ValueError(f"the region is {keep.shape[0]} x {keep.shape[1]} pixels, the clip {height} x {width}")
    missing = -(count - 1) % pipeline.vae.stride[0]
    video = torch.cat([clip.video, clip.video[:, -1:].expand(-1, missing, -1, -1)], dim=1)
    request = Request(prompt, count + missing, height, width, clip.frame_rate, clip.id, given=video, keep_region=keep)
    pipeline.check([request])
    (made,) = replace(pipeline, sampler=sampler).generate([request], seed=seed)
    changed = made.video[:, :count]
    if keep is not None:
        changed = torch.where(keep, clip.video, changed)
    return replace(clip, video=changed, captions={"prompt": prompt})


def framed(clip: Clip, height: int, width: int) -> tuple[Clip, Tensor]:
    """The clip in the middle of a larger frame whose rest is filled with its edges, and which pixels are its own.

    Edited at strength 1 with these pixels kept, a clip is painted on beyond its frame (out-painting).

    Raises:
        ValueError: the frame is smaller than the clip.
    """
    old = clip.video.shape[2:]
    rest = (height - old[0], width - old[1])
    if min(rest) < 0:
        raise ValueError(f"a frame of {height} x {width} pixels is smaller than the clip, {old[0]} x {old[1]}")
    top, left = rest[0] // 2, rest[1] // 2
    borders = (left, rest[1] - left, top, rest[0] - top)
    video = pad(clip.video.transpose(0, 1), borders, mode="replicate").transpose(0, 1)
    own = pad(torch.ones(old, dtype=torch.bool), borders)
    return replace(clip, video=video), own
