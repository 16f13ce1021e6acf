"""How well clips of the made world follow their prompts: the plug-in `world`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from kinema_core import Clip

from kinema_metrics.state import ScoringMetric
from kinema_metrics.world.judge import ATTRIBUTES, EVENT, STYLE, Judge, Reading

#: All that a clip may be judged by.
JUDGED = (*ATTRIBUTES, STYLE, EVENT)


class WorldAccuracy(ScoringMetric):
    """The share of clips whose colour, shape, size, motion, background and count are what the prompt says.

    A clip's `meta` carries the prompt's attributes, and in "stated" those that the caption names (all, if there is no
    "stated"): only they are judged. The count, 1 unless `meta` says otherwise, is always judged, motion never in
    an image, and style and event where `meta` has one. An event is right with all that `meta` and the reading tell of
    its other object or scene; a clip that turns into another scene has no motion to judge.

    Args:
        world: the path of a `world.json`, or its content.
    """

    def __init__(self, world: Mapping[str, Any] | str | Path) -> None:
        super().__init__()
        self.judge = Judge(world)
        columns = len(JUDGED) + 1
        self.add_state("right", torch.zeros(columns, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("judged", torch.zeros(columns, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_count("lost")
        self.add_sum("overlap")

    def verdicts(self, clips: list[Clip]) -> list[dict[str, bool]]:
        """For each clip which of its attributes are right, and "all": every one of them."""
        return [self._verdict(clip, reading) for clip, reading in zip(clips, self.judge.read(clips), strict=True)]

    def update(self, generated: list[Clip], real: list[Clip] | None = None) -> None:
        """Judge clips; real ones are not looked at."""
        for clip, reading in zip(generated, self.judge.read(generated), strict=True):
            verdict = self._verdict(clip, reading)
            for column, name in enumerate((*JUDGED, "all")):
                self.judged[column] += name in verdict
                self.right[column] += verdict.get(name, False)
            self.lost += reading.lost
            self.overlap += reading.overlap

    def compute(self) -> dict[str, float]:
        """Accuracy by attribute and "all"; "lost": share of clips without object; "overlap": mean; "num": clips."""
        num = int(self.judged[-1])
        if num == 0:
            raise ValueError("no clips have been judged")
        columns = zip((*JUDGED, "all"), self.right.tolist(), self.judged.tolist(), strict=True)
        shares = {name: right / judged for name, right, judged in columns if judged}
        return {**shares, "lost": int(self.lost) / num, "overlap": float(self.overlap) / num, "num": float(num)}

    def counts(self) -> dict[str, int]:
        """How many clips each accuracy stands on, for `interval`."""
        counts = zip((*JUDGED, "all"), self.judged.tolist(), strict=True)
        return {name: count for name, count in counts if count}

    def _verdict(self, clip: Clip, reading: Reading) -> dict[str, bool]:
        meta = clip.meta
        missing = [name for name in ATTRIBUTES[:-1] if name not in meta]
        if missing:
            raise ValueError(f"clip {clip.id!r}: its meta lacks {', '.join(missing)}")
        stated = set(meta.get("stated", [name for name in JUDGED if name in meta]))
        stated |= {"count", EVENT} & {"count", *meta}
        if clip.video.shape[1] == 1 or meta.get(EVENT) == "change":
            stated.discard("motion")
        wanted = {**meta, "count": meta.get("count", 1)}
        verdict = {name: getattr(reading, name) == wanted[name] for name in JUDGED if name in stated}
        if EVENT in verdict:
            other = meta.get("other", {})
            verdict[EVENT] &= all(
                other[name] == value for name, value in reading.other.items() if name in other and name in stated
            )
        return {**verdict, "all": all(verdict.values())}


def interval(accuracy: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share (E. B. Wilson 1927).

    Args:
        accuracy: right / n.
        n: how many were judged.
        z: 1.96 for 95 %.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    middle = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (accuracy * (1 - accuracy) / n + z * z / (4 * n * n)) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)
