"""`kinema reproduce`: a file that `kinema generate` wrote, made again from what it says of itself."""

from pathlib import Path

import torch
from kinema_data import read_clip, read_metadata

from kinema.continuing import CONTEXT
from kinema.errors import UserError
from kinema.generate import pieces_of
from kinema.making import Making
from kinema.pipeline import Request

NEEDED = ("prompt", "seed", "id", "size", "frame_rate", "steps", "model_hash")


def reproduce_command(file: str, model: str, *, out: str) -> tuple[Path, int]:
    """Write the clip anew into `out`; the path, and by how many of 255 levels it differs at most from the file.

    Raises:
        UserError: the file does not say how it was made, was made from a given video, or by other weights.
    """
    if Path(out).resolve() == Path(file).resolve().parent:
        raise UserError(f"{out} is the folder of {file}; name another with --out")
    facts = read_metadata(file)
    missing = [key for key in NEEDED if key not in facts]
    if missing:
        raise UserError(f"{file} does not say how it was made: {', '.join(missing)} not in its metadata")
    if "task" in facts:
        raise UserError(f"{file} was made by `kinema {facts['task']}` from {facts['source']}: run that command again")
    since = {"step_cache": 0.0, "settings": (), "negative_prompt": ""}  # what older files do not say
    making = Making(model, out, facts["steps"], seed=facts["seed"], **{k: facts.get(k, v) for k, v in since.items()})
    pipeline = making.pipeline()
    if pipeline.hash != facts["model_hash"]:
        raise UserError(f"{file} was made by model {facts['model_hash'][:12]}, {model} is {pipeline.hash[:12]}")
    request = Request(facts["prompt"], *facts["size"], facts["frame_rate"], facts["id"])
    windows = {key: facts[key] for key in ("window", "context") if key in facts}
    pieces = pieces_of(pipeline, request, making.seed, windows.get("window"), windows.get("context", CONTEXT))
    path = making.write_pieces(pipeline, request, pieces, prompt=request.prompt, **windows)
    one, other = (read_clip(source).frames.to(torch.int16) for source in (file, path))
    return path, int((one - other).abs().max())
