"""`kinema encode`: cache a dataset's latents, and its captions' features where text encoders are frozen."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from kinema_core import Clip, ClipDataset, TextEncoder, VideoVAE, datasets, device_of, text_encoders, weights_hash
from kinema_data import BadClip, LatentWriter
from rich.progress import Progress

from kinema.components import build
from kinema.config import load_config, print_config, validate_components
from kinema.errors import UserError
from kinema.model_folder import load_model
from kinema.pipeline import best_device
from kinema.text_cache import encoder_hash
from kinema.training.data_module import in_range
from kinema.training.settings import Encoding

CAPTIONS_AT_ONCE = 256


def encode_command(file: str | None, overrides: Sequence[str] = (), *, print_only: bool = False) -> None:
    """Write the cache `out`. Clips that cannot be read are left out, told and counted."""
    config = load_config(Encoding, file, overrides)
    validate_components(config)
    if print_only:
        print_config(config)
        return
    (vae,) = load_model(config.model, require=["vae"]).of_kind("vae")
    dataset = build(datasets, config.data)
    text = [build(text_encoders, node) for node in config.text.values()]
    for label, encoder in zip(config.text, text, strict=True):
        if encoder.trainable:
            raise UserError(f"text.{label} is trained with the transformer, so its features cannot be cached")
    made_by = {
        "vae": weights_hash(vae.state_dict()),
        "text": [encoder_hash(encoder) for encoder in text],
        "data": config.data,
    }
    for network in (vae, *text):
        network.to(best_device())
    bad: list[BadClip] = []
    with Progress() as progress, LatentWriter(config.out, made_by=made_by, overwrite=True) as writer:
        bar = progress.add_task("encode", total=len(dataset))
        for clips in _read_ahead(_batches(dataset, config.batch_pixels, bad)):
            _encode(vae, clips, writer)
            _encode_text(text, clips, writer)
            progress.advance(bar, len(clips))
    for error in bad:
        print(f"left out: {error}")
    print(f"wrote {len(dataset) - len(bad)} clips to {config.out}; {len(bad)} could not be read")


@torch.no_grad()
def _encode(vae: VideoVAE, clips: list[Clip], writer: LatentWriter) -> None:
    latents = vae.encode(torch.stack([clip.video for clip in clips]).to(device_of(vae)))
    for clip, latent in zip(clips, latents.cpu(), strict=True):
        writer.add(clip, latent, cell_rate=clip.frame_rate / vae.stride[0])


def _encode_text(text: Sequence[TextEncoder], clips: list[Clip], writer: LatentWriter) -> None:
    captions = ["", *dict.fromkeys(caption for clip in clips for caption in clip.captions.values())]
    for start in range(0, len(captions), CAPTIONS_AT_ONCE) if text else ():
        some = captions[start : start + CAPTIONS_AT_ONCE]
        writer.add_text(some, [encoder(some).to("cpu") for encoder in text])


def _read_ahead(batches: Iterator[list[Clip]]) -> Iterator[list[Clip]]:
    """The next batch is decoded while the last is encoded."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while clips := coming.result():
            coming = pool.submit(next, batches, None)
            yield clips


def _batches(dataset: ClipDataset, batch_pixels: int, bad: list[BadClip]) -> Iterator[list[Clip]]:
    """Clips of one size, of at most `batch_pixels` together; sizes in order of first appearance."""
    by_size: dict[tuple[int, int, int], list[int]] = {}
    for i in range(len(dataset)):
        info = dataset.info(i)
        by_size.setdefault((info.frames, info.height, info.width), []).append(i)
    for (frames, height, width), members in by_size.items():
        most = max(1, batch_pixels // (frames * height * width))
        for start in range(0, len(members), most):
            clips = []
            for i in members[start : start + most]:
                try:
                    clips.append(in_range(dataset[i]))
                except BadClip as error:
                    bad.append(error)
            if clips:
                yield clips
