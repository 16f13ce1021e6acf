"""The contract, as any third party runs it."""

import torch
from kinema_core.testing import DiTContract

from acme_mixer_dit import AcmeMixer


class TestAcmeMixer(DiTContract):
    pooled_widths = (None,)

    def make(self) -> AcmeMixer:
        torch.manual_seed(0)
        return AcmeMixer(latent_channels=4, text_widths=(8,), hidden=16)
