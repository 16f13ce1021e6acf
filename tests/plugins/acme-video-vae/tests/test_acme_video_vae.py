"""The contract that Kinema's own VAEs pass too."""

import pytest
import torch
from kinema_core import vaes
from kinema_core.testing import VAEContract

acme_video_vae = pytest.importorskip("acme_video_vae", reason="acme-video-vae is not installed")
AcmeVAE = acme_video_vae.AcmeVAE


class TestAcmeVAE(VAEContract):
    def make(self) -> AcmeVAE:
        torch.manual_seed(0)
        return AcmeVAE(hidden=16)


class TestOtherStrides(VAEContract):
    def make(self) -> AcmeVAE:
        torch.manual_seed(0)
        return AcmeVAE(hidden=8, code_size=3, downsample=2, group=2)


def test_it_is_found_by_name() -> None:
    assert vaes.get("acme") is AcmeVAE
    assert vaes.origin("acme") == ("acme-video-vae", "2.3.1")
