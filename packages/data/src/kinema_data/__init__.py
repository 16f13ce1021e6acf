"""Clips in and out: video files, manifests, token-budget batches and latent caches."""

from kinema_data.budget import TokenBudgetSampler
from kinema_data.cache import CachedLatents, LatentClip
from kinema_data.cache_writer import LatentWriter
from kinema_data.decoding import ClipSize, DecodedClip, probe, read_clip, read_frames, read_metadata
from kinema_data.files import BadClip, Limits
from kinema_data.loading import Batch, ReplacingDataset, Skip, SkipLog, collate
from kinema_data.manifest import ManifestDataset
from kinema_data.packs import PackSampler
from kinema_data.sampler import Draw, PlannedSampler
from kinema_data.sheet import contact_sheet
from kinema_data.video import (
    VideoWriter,
    enlarge,
    to_float,
    to_uint8,
    unenlarged,
    write_image,
    write_preview,
    write_video,
)

__all__ = [
    "BadClip",
    "Batch",
    "CachedLatents",
    "ClipSize",
    "DecodedClip",
    "Draw",
    "LatentClip",
    "LatentWriter",
    "Limits",
    "ManifestDataset",
    "PackSampler",
    "PlannedSampler",
    "ReplacingDataset",
    "Skip",
    "SkipLog",
    "TokenBudgetSampler",
    "VideoWriter",
    "collate",
    "contact_sheet",
    "enlarge",
    "probe",
    "read_clip",
    "read_frames",
    "read_metadata",
    "to_float",
    "to_uint8",
    "unenlarged",
    "write_image",
    "write_preview",
    "write_video",
]
