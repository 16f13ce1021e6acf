"""The made world as a data set that renders its clips when asked."""

from collections.abc import Sequence

from kinema_core import Clip, ClipDataset, ClipInfo

from kinema_data.worlds.look import Look
from kinema_data.worlds.render import render
from kinema_data.worlds.scenes import Scene, draw_scene
from kinema_data.worlds.world import World


class ShapesDataset(ClipDataset):
    """Captioned clips of one moving shape; clip i is a function of (seed, split, i) alone.

    Args:
        num_clips: how many.
        seed: another seed, other clips of the same world.
        split: train, choose or report: which combinations of colour, shape and motion occur.
        scale: whole number that multiplies every length, frame sizes too.
        texture: strength of the patterns on object and background, in levels of 255; see `Look`.
        noise: deviation of what every value is off by, in levels of 255.
        camera: pixels at scale 1 a second that the background passes by.
        styles: how objects are drawn: flat, outline, textured, pixelated.
        events: what can happen beside the motion: none, pair, occluder, leave, swing, cut, change.
    """

    def __init__(
        self,
        num_clips: int = 8000,
        *,
        seed: int = 0,
        split: str = "train",
        scale: int = 1,
        texture: float = 0.0,
        noise: float = 0.0,
        camera: float = 0.0,
        styles: Sequence[str] = ("flat",),
        events: Sequence[str] = ("none",),
    ) -> None:
        if num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, got {num_clips}")
        self.world = World(scale, Look(texture, noise, camera), tuple(styles), tuple(events))
        self.world.triples(split)
        self.num_clips, self.seed, self.split = num_clips, seed, split

    def __len__(self) -> int:
        return self.num_clips

    def scene(self, index: int) -> Scene:
        """What clip `index` shows. IndexError past the end."""
        if not 0 <= index < self.num_clips:
            raise IndexError(f"clip {index} of {self.num_clips}")
        return draw_scene(self.world, self.split, self.seed, index)

    def info(self, index: int) -> ClipInfo:
        """Sizes and the short caption."""
        scene = self.scene(index)
        return ClipInfo(scene.id, scene.frames, scene.height, scene.width, scene.frame_rate, scene.caption)

    def __getitem__(self, index: int) -> Clip:
        return render([self.scene(index)])[0]
