"""Measures of generated video: Frechet distance, CLIP scores, pixel measures and the judge of made worlds."""

from kinema_metrics.adapter import TorchMetrics
from kinema_metrics.clip_features import ClipFeatures
from kinema_metrics.clip_score import ClipFrameConsistency, ClipScore
from kinema_metrics.frechet import frechet_distance, frechet_from_features, kernel_distance
from kinema_metrics.fvd import FVD
from kinema_metrics.passes import video_features
from kinema_metrics.pixels import frame_difference, psnr, seam_ratio, ssim
from kinema_metrics.retrieval import ClipRetrieval, retrieval_accuracy
from kinema_metrics.state import ScoringMetric
from kinema_metrics.world import ATTRIBUTES, Judge, Reading, WorldAccuracy, interval

__all__ = [
    "ATTRIBUTES",
    "FVD",
    "ClipFeatures",
    "ClipFrameConsistency",
    "ClipRetrieval",
    "ClipScore",
    "Judge",
    "Reading",
    "ScoringMetric",
    "TorchMetrics",
    "WorldAccuracy",
    "frame_difference",
    "frechet_distance",
    "frechet_from_features",
    "interval",
    "kernel_distance",
    "psnr",
    "retrieval_accuracy",
    "seam_ratio",
    "ssim",
    "video_features",
]
