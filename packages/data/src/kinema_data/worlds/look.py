"""How the world is painted: flat colours, or with texture, noise and a camera that pans."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Plane waves of a texture, and the bounds of their lengths in pixels at scale 1.
WAVES, LENGTHS = 4, (4.0, 16.0)


@dataclass(frozen=True)
class Look:
    """Flat colours seen by a camera at rest, unless told otherwise.

    A judge that tells flat clips apart still does so up to a texture of about 10 and a noise of about 5 levels.

    Attributes:
        texture: standard deviation of the patterns on the object and on the background, in levels of 8 bits.
        noise: standard deviation of what every value of every frame is off by, in levels.
        camera: how fast the background passes, in pixels at scale 1 a second, in one direction a clip. The object's
            positions are in the frame, wherever that is.

    Raises:
        ValueError: a negative value.
    """

    texture: float = 0.0
    noise: float = 0.0
    camera: float = 0.0

    def __post_init__(self) -> None:
        if min(self.texture, self.noise, self.camera) < 0:
            raise ValueError(f"texture {self.texture}, noise {self.noise} and camera {self.camera} start at 0")

    @property
    def flat(self) -> bool:
        """Whether nothing is to be added to plain colours; a pan is not seen without a texture."""
        return self.texture == self.noise == 0

    def paint(
        self, frames: Tensor, cover: Tensor, centre: Tensor, *, frame_rate: float, scale: int, seed: int
    ) -> Tensor:
        """Add texture and noise to a flat clip.

        Args:
            frames: (T, H, W, 3) in levels.
            cover: (T, H, W), the object's share of each pixel.
            centre: (T, 2), where it is, x and y.
            frame_rate: frames a second.
            scale: of the world.
            seed: patterns, direction and noise are functions of it.
        """
        generator = torch.Generator().manual_seed(seed)
        count, height, width = cover.shape
        turn = 2 * math.pi * float(torch.rand((), generator=generator))
        time = torch.arange(count) / frame_rate
        pan = self.camera * scale * time[:, None] * torch.tensor([math.cos(turn), math.sin(turn)])
        ground, thing = (_pattern(height, width, place, scale, generator) for place in (-pan, centre))
        frames = frames + self.texture * torch.lerp(ground, thing, cover)[..., None]
        return frames + self.noise * torch.randn(frames.shape, generator=generator)


def _pattern(height: int, width: int, origin: Tensor, scale: int, generator: torch.Generator) -> Tensor:
    """(T, H, W) of unit variance, fixed to `origin` (T, 2): a sum of plane waves of random directions and lengths."""
    low, high = LENGTHS
    angle, length, phase = torch.rand(3, WAVES, generator=generator)
    number = 2 * math.pi / (scale * low * (high / low) ** length)
    x = torch.arange(width) + 0.5 - origin[:, :1]  # (T, W)
    y = torch.arange(height) + 0.5 - origin[:, 1:]  # (T, H)
    waves = [
        (k * math.cos(a) * x[:, None, :] + k * math.sin(a) * y[:, :, None] + 2 * math.pi * p).cos()
        for k, a, p in zip(number.tolist(), (2 * math.pi * angle).tolist(), phase.tolist(), strict=True)
    ]
    return torch.stack(waves).sum(0) * (2 / WAVES) ** 0.5
