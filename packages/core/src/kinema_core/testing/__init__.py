"""Contract tests: subclass the one of your component's kind, set its factory, and run pytest.

class TestMyVAE(VAEContract):
    def make(self):
        return MyVAE(latent_channels=4)
"""

from kinema_core.testing.networks import (
    DiTContract,
    FeaturesContract,
    ImageEncoderContract,
    ImageTextContract,
    TextEncoderContract,
    VAEContract,
)
from kinema_core.testing.processes import (
    CaptionerContract,
    DatasetContract,
    DiffusionContract,
    GuidanceContract,
    MetricContract,
    PrompterContract,
    SamplerContract,
)
from kinema_core.testing.references import TOLERANCE, LinearLaw, gaussian_denoiser, largest_difference, randomise

__all__ = [
    "TOLERANCE",
    "CaptionerContract",
    "DatasetContract",
    "DiTContract",
    "DiffusionContract",
    "FeaturesContract",
    "GuidanceContract",
    "ImageEncoderContract",
    "ImageTextContract",
    "LinearLaw",
    "MetricContract",
    "PrompterContract",
    "SamplerContract",
    "TextEncoderContract",
    "VAEContract",
    "gaussian_denoiser",
    "largest_difference",
    "randomise",
]
