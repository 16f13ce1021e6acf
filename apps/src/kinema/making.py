"""What all commands that make clips share: the model they load, and files that say how they were made."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kinema_core import Clip
from kinema_data import VideoWriter, read_clip, read_metadata, to_float, to_uint8, unenlarged, write_image
from torch import Tensor

from kinema.errors import UserError
from kinema.pipeline import Pipeline, Request

MOST_PROMPT_CHARACTERS = 4000


@dataclass(frozen=True)
class Making:
    """How clips are to be made.

    Attributes:
        model: folder or URL.
        out: folder of what is written.
        steps: of the sampler; None: the model's number.
        step_cache: see `Pipeline`.
        seed: of the noise.
        settings: over those of the model's folder, such as "dit.attention=window".
        device: where to compute; None: `best_device`.
        negative_prompt: what guidance leads away from.
    """

    model: str
    out: str = "generated"
    steps: int | None = None
    step_cache: float = 0.0
    seed: int = 0
    settings: Sequence[str] = ()
    device: str | None = None
    negative_prompt: str = ""

    def pipeline(self) -> Pipeline:
        """The model. UserError: a step cache below 0, or no such device."""
        if self.step_cache < 0:
            raise UserError(f"a step cache of {self.step_cache} is below 0, where every step is computed")
        try:
            device = None if self.device is None else torch.device(self.device)
        except RuntimeError:
            raise UserError(f"there is no device {self.device!r}; devices are cpu, cuda, cuda:1, ...") from None
        changes: dict[str, Any] = {} if self.steps is None else {"num_steps": self.steps}
        changes |= {"step_cache": self.step_cache, "negative_prompt": clipped(self.negative_prompt)}
        return Pipeline.load(self.model, device=device, settings=self.settings, **changes)

    def write(self, pipeline: Pipeline, clip: Clip, **facts: Any) -> Path:
        """Write a clip; the file says these facts and how it was made."""
        frames, height, width = clip.video.shape[1:]
        asked = Request("", frames, height, width, clip.frame_rate, clip.id)
        return self.write_pieces(pipeline, asked, [clip.video], **facts)

    def write_pieces(self, pipeline: Pipeline, asked: Request, pieces: Iterable[Tensor], **facts: Any) -> Path:
        """Write a clip of the request's size, rate and id whose frames (3, n, H, W) come piece by piece.

        An mp4 that every player shows, or a png for one frame. Its name is a hash: a prompt may hold anything.
        """
        facts = {
            **facts,
            "seed": self.seed,
            "id": asked.id,
            "size": [asked.frames, asked.height, asked.width],
            "frame_rate": asked.frame_rate,
            "sampler": repr(pipeline.sampler),
            "guidance": repr(pipeline.guidance),
            "steps": pipeline.num_steps,
            "negative_prompt": pipeline.negative_prompt,
            "step_cache": pipeline.step_cache,
            "settings": list(self.settings),
            "model": Path(self.model).name,
            "model_hash": pipeline.hash,
        }
        path = Path(self.out) / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
        if asked.frames == 1:
            (piece,) = pieces
            write_image(path.with_suffix(".png"), to_uint8(piece)[0], facts)
            return path.with_suffix(".png")
        path = path.with_suffix(".mp4")
        with VideoWriter.preview(path, asked.frame_rate, metadata=facts) as writer:
            for piece in pieces:
                writer.write(to_uint8(piece))
        return path


def read_made(path: str) -> Clip:
    """A video or image; what Kinema wrote enlarged, so that players show it, is brought back to its own size."""
    found, size = read_clip(path), read_metadata(path).get("size")
    frames = found.frames
    if isinstance(size, list) and len(size) == 3 and all(isinstance(n, int) and n > 0 for n in size):
        frames = unenlarged(frames, size[1], size[2])
    return Clip(Path(path).name, to_float(frames), found.frame_rate)


def clipped(prompt: str) -> str:
    """The prompt, cut where it is far too long, which is told."""
    if len(prompt) > MOST_PROMPT_CHARACTERS:
        print(f"the prompt has {len(prompt)} characters; the first {MOST_PROMPT_CHARACTERS} are used")
    return prompt[:MOST_PROMPT_CHARACTERS]
