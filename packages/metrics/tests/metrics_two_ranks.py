"""One rank of the test in test_metrics_fvd.py: rank 0 holds all generated clips and few real ones, rank 1 the rest."""

import json
import sys
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from kinema_core import Clip, FeatureExtractor, ImageText, seeded_normal

from kinema_metrics import FVD, ClipRetrieval


class Mean(FeatureExtractor):
    num_features = 12
    protocol = {"name": "mean"}  # noqa: RUF012

    def forward(self, video):
        return video.flatten(1).unflatten(1, (12, -1)).mean(2)


class Colour(ImageText):
    id, width = "colour", 3

    def encode_image(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)

    def encode_text(self, captions):
        return torch.nn.functional.normalize(torch.stack([seeded_normal((3,), text) for text in captions]), dim=1)


def clips(count, key, scale):
    return [
        Clip(f"{key}{i}", (scale * seeded_normal((3, 2, 4, 4), key, i)).clamp(-1, 1), 8.0, {"short": f"caption {i}"})
        for i in range(count)
    ]


def scores(sets):
    values = {}
    for kept in (False, True):
        metric = FVD(Mean(), keep_features=kept)
        generated, real = sets
        if generated or real:
            metric.update(generated, real)
        values |= {f"{name} {kept}": value for name, value in metric.compute().items()}
    retrieval = ClipRetrieval(Colour(), candidates=5)
    retrieval.update(sets[0])
    return values | retrieval.compute(), metric


def run(rank, store):
    generated, real = clips(13, "g", 0.5), clips(9, "r", 0.3)
    alone, _ = scores((generated, real))
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=300)
    )
    try:
        together, metric = scores((generated, real[:2]) if rank == 0 else ([], real[2:]))
        dist.barrier()
    finally:
        dist.destroy_process_group()
    counts = [metric.protocol["num_generated"], metric.protocol["num_real"]]
    return {"alone": alone, "together": together, "counts": counts}


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # torchmetrics imports transformers where that is installed.
    heavy = sorted({"lightning", "mlflow", "open_clip", "timm"} & set(sys.modules))
    print(json.dumps({**run(int(sys.argv[1]), sys.argv[2]), "heavy": heavy}))  # noqa: T201
