"""Named settings of `Causal3D`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

#: `demo` trains in minutes on a CPU (0.4 M parameters); `small` and `high` have the proportions of the large open
#: models' VAEs and of those that compress most, at sizes that a CPU can still train; `wan21` and `wan22` are the
#: networks of Wan 2.1 and of Wan 2.2 TI2V-5B, layer by layer, so that their weights can be loaded.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "demo": {
            "latent_channels": 12,
            "unshuffle": (4, 4, 4),
            "strides": (),
            "widths": (64,),
            "num_blocks": 1,
            "time_kernel": 2,
        },
        "small": {
            "latent_channels": 16,
            "unshuffle": (2, 4, 4),
            "strides": ((2, 2, 2),),
            "widths": (96, 192),
            "num_blocks": 2,
        },
        "high": {
            "latent_channels": 128,
            "unshuffle": (2, 8, 8),
            "strides": ((2, 2, 2), (2, 2, 2)),
            "widths": (192, 384, 512),
            "num_blocks": 2,
        },
        "wan21": {
            "layout": "wan",
            "latent_channels": 16,
            "unshuffle": (1, 1, 1),
            "strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
            "widths": (96, 192, 384, 384),
            "num_blocks": 2,
        },
        "wan22": {
            "layout": "wan",
            "latent_channels": 48,
            "unshuffle": (1, 2, 2),
            "strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
            "widths": (160, 320, 640, 640),
            "decoder_widths": (256, 512, 1024, 1024),
            "num_blocks": 2,
            "shortcuts": True,
        },
    }
)
