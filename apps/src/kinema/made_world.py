"""`kinema data make-world`."""

from collections.abc import Mapping

from kinema_data.worlds import FRAME_RATES, Look, make_prompts, make_world
from rich.progress import Progress

from kinema.sizes import parse_size


def make_world_command(
    out: str,
    *,
    clips: int,
    split: str | None,
    sizes: str,
    frame_rate: float | None,
    workers: int,
    seed: int,
    scale: int,
    look: Mapping[str, float],
    styles: str,
    events: str,
) -> None:
    """A world of all splits; with `split` evaluation prompts of it and their clips, at `sizes` in turn.

    Their frame rate is drawn from the world's, unless it is given.
    """
    shared = {"num_clips": clips, "seed": seed, "scale": scale, "look": Look(**look)}
    shared |= {"styles": styles.split(","), "events": events.split(",")}
    with Progress(transient=True) as progress:
        bar = progress.add_task("clips", total=clips)

        def advance(done: int, _: int) -> None:
            progress.update(bar, completed=done)

        if split is None:
            make_world(out, num_workers=workers, progress=advance, **shared)
        else:
            wanted = [parse_size(size) for size in sizes.split(",")]
            rates = FRAME_RATES if frame_rate is None else [frame_rate]
            make_prompts(out, split=split, sizes=wanted, frame_rates=rates, progress=advance, **shared)
    print(f"wrote {clips} clips, manifest.jsonl and world.json to {out}")
