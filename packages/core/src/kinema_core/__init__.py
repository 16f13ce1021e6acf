"""The contract between Kinema's packages: registries, interfaces and the data that travels between components."""

from kinema_core import diffusers_folder
from kinema_core.data import UNIT_CELL_RATE, Clip, Conditioning, Ragged, TextFeatures
from kinema_core.devices import device_of
from kinema_core.hashing import weights_hash
from kinema_core.interfaces import (
    Captioner,
    ClipDataset,
    ClipInfo,
    Denoise,
    Diffusion,
    DiT,
    FeatureExtractor,
    Guidance,
    Guide,
    ImageEncoder,
    ImageText,
    Metric,
    Net,
    Predict,
    Prompter,
    Sampler,
    TextEncoder,
    VideoVAE,
)
from kinema_core.noise import seeded_generator, seeded_normal
from kinema_core.registry import Registry, nearest, refresh

vaes = Registry("vae", VideoVAE)
dits = Registry("dit", DiT)
text_encoders = Registry("text", TextEncoder)
image_encoders = Registry("image", ImageEncoder)
captioners = Registry("captioner", Captioner)
prompters = Registry("prompter", Prompter)
diffusions = Registry("diffusion", Diffusion)
samplers = Registry("sampler", Sampler)
guidances = Registry("guidance", Guidance)
datasets = Registry("dataset", ClipDataset)
features = Registry("features", FeatureExtractor)
metrics = Registry("metric", Metric)

__all__ = [
    "UNIT_CELL_RATE",
    "Captioner",
    "Clip",
    "ClipDataset",
    "ClipInfo",
    "Conditioning",
    "Denoise",
    "DiT",
    "Diffusion",
    "FeatureExtractor",
    "Guidance",
    "Guide",
    "ImageEncoder",
    "ImageText",
    "Metric",
    "Net",
    "Predict",
    "Prompter",
    "Ragged",
    "Registry",
    "Sampler",
    "TextEncoder",
    "TextFeatures",
    "VideoVAE",
    "captioners",
    "datasets",
    "device_of",
    "diffusions",
    "diffusers_folder",
    "dits",
    "features",
    "guidances",
    "image_encoders",
    "metrics",
    "nearest",
    "prompters",
    "refresh",
    "samplers",
    "seeded_generator",
    "seeded_normal",
    "text_encoders",
    "vaes",
    "weights_hash",
]
