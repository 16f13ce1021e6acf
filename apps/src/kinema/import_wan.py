"""`kinema import wan`: a model folder of Kinema out of a folder in which diffusers saved a pipeline of Wan."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from kinema_core import DiT, diffusions, dits, guidances, image_encoders, samplers, text_encoders
from kinema_dit import load_wan as load_transformer
from kinema_dit import wan_settings
from kinema_text import load_clip_vision, load_t5
from kinema_vae import load_wan as load_vae

from kinema.components import WIDTHS, build
from kinema.errors import UserError
from kinema.model_folder import save_model

INDEX = "model_index.json"
#: Pipelines of diffusers whose parts are read, with the parts that all of them have.
PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
PARTS = ("vae", "transformer", "text_encoder", "tokenizer", "scheduler")
#: Of Wan 2.1 image to video: a CLIP that the transformer is told of the given image by.
IMAGE = "image_encoder"
#: Of pairs: the transformer for low noise; the other is for high noise.
SECOND = "transformer_2"
#: What diffusers samples with where nobody says otherwise.
GUIDANCE, NUM_STEPS, MAX_TOKENS = 5.0, 50, 512


def import_wan(folder: str | Path, out: str | Path) -> Path:
    """Write the model folder `out`: VAE, umT5, the image's CLIP where there is one, transformer or pair of them, the
    law with its shift, sampler, guidance.

    Captions are padded with zeros to 512 tokens and nothing is masked, as Wan was trained.

    Raises:
        UserError: no such pipeline, a part is missing or has no counterpart here, or a part's files do not fit.
    """
    folder = Path(folder)
    index = _index(folder)
    rate = 24.0 if index.get("expand_timesteps") else 16.0
    law = {"name": "flow", "shift": _shift(folder / "scheduler")}
    text = {
        "name": "t5",
        "config": str(folder / "text_encoder" / "config.json"),
        "tokenizer": str(folder / "tokenizer" / "tokenizer.json"),
        "max_tokens": MAX_TOKENS,
        "zero_padded": True,
    }
    sampler, guidance = {"name": "dpmpp_2m"}, {"name": "cfg", "scale": GUIDANCE}
    try:
        vae = load_vae(folder / "vae")
        dit, settings = load_transformer(folder / "transformer"), wan_settings(folder / "transformer")
        own = {"name": "video_dit", **{k: v for k, v in settings.items() if k not in WIDTHS}, "frame_rate": rate}
        if _has(index, SECOND):
            own, dit = _pair(folder, own, settings, dit, index.get("boundary_ratio"))
        encoder = build(text_encoders, text)
        load_t5(encoder, folder / "text_encoder")
        seen = _image_encoder(folder) if _has(index, IMAGE) else {}
    except ValueError as error:
        raise UserError(str(error)) from error
    if encoder.width != settings["text_widths"][0]:
        raise UserError(
            f"{folder}: the transformer reads text of width {settings['text_widths'][0]}, not {encoder.width}"
        )
    image_width = seen["image"][1].width if seen else None
    if image_width != settings["image_width"]:
        raise UserError(
            f"{folder}: the transformer reads an image of width {settings['image_width']}, not {image_width}"
        )
    return save_model(
        out,
        {
            "vae": ({"name": "causal3d", **vae.settings}, vae),
            "text.main": (text, encoder),
            **seen,
            "dit": (own, dit),
            "diffusion": (law, build(diffusions, law)),
            "sampler": (sampler, build(samplers, sampler)),
            "guidance": (guidance, build(guidances, guidance)),
        },
        facts={"imported": folder.name, "num_steps": NUM_STEPS, "frame_rate": rate},
        derived={"cell_widths": settings["cell_widths"]},
    )


def _image_encoder(folder: Path) -> dict[str, tuple[dict[str, Any], Any]]:
    """The component of the given image's features and its config node, by its key."""
    node = {
        "name": "clip_vision",
        "config": str(folder / IMAGE / "config.json"),
        "processor": str(folder / "image_processor" / "preprocessor_config.json"),
    }
    encoder = build(image_encoders, node)
    load_clip_vision(encoder, folder / IMAGE)
    return {"image": (node, encoder)}


def _pair(
    folder: Path, node: Mapping[str, Any], settings: Mapping[str, Any], high: DiT, boundary: float | None
) -> tuple[dict[str, Any], DiT]:
    """The component of two transformers, and its config node, with the weights of `high` and of the second one."""
    if boundary is None:
        raise UserError(f"{folder}: {INDEX} has a second transformer and no boundary_ratio that says when it is asked")
    if wan_settings(folder / SECOND) != settings:
        raise UserError(f"{folder}: transformer and {SECOND} have not the same settings")
    expert = {key: value for key, value in node.items() if key != "name"}
    pair = {"name": "noise_experts", "boundary": boundary, "expert": expert}
    with torch.device("meta"):  # it takes the tensors of its parts, of which there may be 28 billion numbers
        dit = build(dits, pair, **{key: settings[key] for key in WIDTHS if key in settings})
    for part, source in ((dit.high, high), (dit.low, load_transformer(folder / SECOND))):
        part.load_state_dict(source.state_dict(), assign=True)
    return pair, dit


def _has(index: Mapping[str, Any], part: str) -> bool:
    """Whether a pipeline has a part; diffusers writes [null, null] for one that it was saved without."""
    return any(index.get(part) or ())


def _index(folder: Path) -> dict[str, Any]:
    """What diffusers says of the pipeline; UserError unless all of its parts have a counterpart here."""
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder} holds no {INDEX}; give a folder in which diffusers saved a pipeline of Wan")
    index = json.loads((folder / INDEX).read_text())
    if index.get("_class_name") not in PIPELINES:
        raise UserError(f"{folder} holds a {index.get('_class_name')}, not a {' or '.join(PIPELINES)}")
    for part in (*PARTS, *(part for part in (SECOND, IMAGE) if _has(index, part))):
        if not (folder / part).is_dir():
            raise UserError(f"{folder} holds no {part}")
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        raise UserError(
            f"{folder / 'tokenizer'} holds no tokenizer.json; load it with AutoTokenizer of transformers and save it "
            "there again"
        )
    return index


def _shift(folder: Path) -> float:
    """By how much the schedule multiplies sigma / alpha; diffusers has two names for it."""
    file = folder / "scheduler_config.json"
    if not file.is_file():
        raise UserError(f"{folder} holds no {file.name}")
    config = json.loads(file.read_text())
    return float(config.get("flow_shift") or config.get("shift") or 1.0)
