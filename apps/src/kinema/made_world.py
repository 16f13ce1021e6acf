"""`kinema data make-world`."""

from kinema_data.worlds import make_prompts, make_world
from rich.progress import Progress

from kinema.sizes import parse_size


def make_world_command(out: str, *, clips: int, split: str | None, sizes: str, workers: int, seed: int) -> None:
    """A world of all splits; with `split` evaluation prompts of it and their clips, at `sizes` in turn."""
    with Progress(transient=True) as progress:
        bar = progress.add_task("clips", total=clips)

        def advance(done: int, _: int) -> None:
            progress.update(bar, completed=done)

        if split is None:
            make_world(out, num_clips=clips, seed=seed, num_workers=workers, progress=advance)
        else:
            wanted = [parse_size(size) for size in sizes.split(",")]
            make_prompts(out, num_clips=clips, split=split, seed=seed, sizes=wanted, progress=advance)
    print(f"wrote {clips} clips, manifest.jsonl and world.json to {out}")
