"""Clips in and out: video files, manifests, token-budget batches and latent caches."""

from kinema_data.decoding import (
    BadClip,
    ClipSize,
    DecodedClip,
    Limits,
    probe,
    read_clip,
    read_frames,
    read_metadata,
)
from kinema_data.manifest import ManifestDataset
from kinema_data.video import VideoWriter, enlarge, to_float, to_uint8, write_image, write_preview, write_video

__all__ = [
    "BadClip",
    "ClipSize",
    "DecodedClip",
    "Limits",
    "ManifestDataset",
    "VideoWriter",
    "enlarge",
    "probe",
    "read_clip",
    "read_frames",
    "read_metadata",
    "to_float",
    "to_uint8",
    "write_image",
    "write_preview",
    "write_video",
]
