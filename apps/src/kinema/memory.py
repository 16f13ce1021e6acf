"""How much memory a clip takes at least, so that one that can never fit is refused before it is begun."""

import psutil
import torch
from kinema_core import DiT, VideoVAE, device_of
from torch import nn

BYTES = 4


def check_memory(vae: VideoVAE, dit: DiT, frames: int, height: int, width: int) -> None:
    """Raise ValueError where a clip of this size takes more memory than is free."""
    needed = max(
        transformer_bytes(dit, vae.latent_grid(frames, height, width)) - free_bytes(device_of(dit)),
        decoder_bytes(vae, height, width) - free_bytes(device_of(vae)),
        frame_bytes(frames, height, width) - free_bytes(torch.device("cpu")),
    )
    if needed > 0:
        raise ValueError(
            f"{frames} frames of {height} x {width} pixels take at least {needed / 2**30:.1f} GiB more memory than is "
            "free; ask for fewer frames or pixels, or for a window"
        )


def transformer_bytes(dit: DiT, grid: tuple[int, int, int]) -> int:
    """Of the tokens of a clip of these latent cells in the widest layer, in and out."""
    tokens = 1
    for cells, patch in zip(grid, dit.patch, strict=True):
        tokens *= -(-cells // patch)
    widest = max((m.in_features + m.out_features for m in dit.modules() if isinstance(m, nn.Linear)), default=0)
    return BYTES * tokens * widest


def decoder_bytes(vae: VideoVAE, height: int, width: int) -> int:
    """Of the frames of one latent in the decoder's last layer, in and out; untiled."""
    values, channels = vae.last_layer.shape[:2]
    places = vae.stride[0] * height * width / (values / 3)  # a place has several pixels where they are unshuffled
    return round(BYTES * places * (channels + values))


def frame_bytes(frames: int, height: int, width: int) -> int:
    """Of the finished frames."""
    return BYTES * 3 * frames * height * width


def free_bytes(device: torch.device) -> int:
    """What can be allocated on a device without swapping; those without memory of their own use the computer's."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # free to us, not to others
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available
