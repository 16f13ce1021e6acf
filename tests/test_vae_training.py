"""VAE training with all losses, steps that are not finite, weights from elsewhere, and `kinema evaluate vae`."""

import json
from pathlib import Path

import av
import lightning.pytorch as pl
import pytest
import timm
import torch
from kinema.components import build
from kinema.errors import ConfigError, UserError
from kinema.evaluate_vae import by_size, evaluate_vae_command
from kinema.model_folder import load_model
from kinema.training import VAEModule
from kinema.training.data_module import Remembered, readable
from kinema.training.run import train_vae
from kinema.training.vae_module import FiniteSteps, VAELoss
from kinema_core import Clip, seeded_normal, vaes
from kinema_vae import Causal3D, save_wan
from kinema_vae.training import PatchDiscriminator, hinge
from safetensors.torch import save_file

DATA = ["data.name=shapes", "data.num_clips=24", "validation.name=shapes", "validation.num_clips=2"]
SHORT = ["trainer.accelerator=cpu", "trainer.max_steps=3", "trainer.checkpoint_minutes=null", "whitening_clips=8"]
TINY = ["vae.widths=[16]", "vae.latent_channels=4", "vae.unshuffle=[4,8,8]"]
GAN = ["gan.weight=0.5", "gan.start=1", "gan.width=4", "gan.layers=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clips(n: int = 2, size: tuple[int, ...] = (5, 32, 32)) -> list[Clip]:
    return [Clip(str(i), seeded_normal((3, *size), "clip", i).clamp(-1, 1), 8.0) for i in range(n)]


def module(**weights) -> VAEModule:
    torch.manual_seed(0)
    vae = Causal3D(latent_channels=4, unshuffle=(4, 8, 8), widths=(16,))
    return VAEModule(vae, weights=VAELoss(**weights), discriminator=PatchDiscriminator(4, num_layers=2))


def test_each_network_learns_from_its_own_loss():
    """The discriminator's gradient is that of its hinge loss alone, the VAE's last layer is pulled by both equally."""
    net = module(gan=1.0, l1=0.0, kl=0.0)
    batch = clips()
    net.log_dict = lambda *_, **__: None
    net.training_step(batch, 0).backward()
    found = [p.grad.clone() for p in net.discriminator.parameters()]
    last = net.vae.last_layer.grad.clone()

    video = torch.stack([clip.video for clip in batch])
    mean, log_variance = net.vae.posterior(video)
    decoded = net.vae.decode(net._sampled(mean, log_variance, batch), size=(32, 32))
    alone = torch.autograd.grad(
        hinge(net.discriminator(video), net.discriminator(decoded.detach())), list(net.discriminator.parameters())
    )
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, alone, strict=True))
    (one,) = torch.autograd.grad((decoded - video).square().mean(), net.vae.last_layer, retain_graph=True)
    (other,) = torch.autograd.grad(-net.discriminator(decoded).mean(), net.vae.last_layer)
    assert torch.allclose(last, one + one.norm() * other / (other.norm() + 1e-6), atol=1e-6)


@torch.no_grad()
def test_flicker_is_the_error_of_changes_and_an_image_has_none():
    net = module(l1=0.0, kl=0.0, flicker=3.0)
    for batch in (clips(), clips(size=(1, 32, 32))):
        parts = net._losses(batch)
        video = torch.stack([clip.video for clip in batch])
        mean, log_variance = net.vae.posterior(video)
        error = net.vae.decode(net._sampled(mean, log_variance, batch), size=(32, 32)) - video
        changes = sum((error[:, :, t + 1] - error[:, :, t]).square().sum() for t in range(error.shape[2] - 1))
        right = changes / error.numel()
        assert float(parts["flicker"]) == pytest.approx(float(right), rel=1e-5)
        assert float(parts["loss"]) == pytest.approx(float(parts["mse"] + 3 * right), rel=1e-5)


def test_training_goes_on_from_a_whitened_vae_where_it_was(monkeypatch):
    """What the decoder is given in training is what it is given in use, whatever statistics came with the weights."""
    torch.manual_seed(0)
    vae = Causal3D(latent_channels=4, unshuffle=(4, 8, 8), widths=(16,))
    vae.set_whitening(torch.tensor([3.0, -2.0, 0.5, 0.0]), torch.tensor([0.1, 5.0, 2.0, 1.0]))
    batch = clips()
    videos = torch.stack([clip.video for clip in batch])
    with torch.no_grad():
        error = (vae.decode(vae.encode(videos)) - videos).square().mean().item()
    net = VAEModule(vae, weights=VAELoss(l1=0.0, kl=0.0))
    net.log_dict = lambda *_, **__: None
    monkeypatch.setattr(VAEModule, "_sampled", lambda self, mean, *_: mean)
    assert net.training_step(batch, 0).item() == pytest.approx(error, rel=1e-4)


def test_before_its_start_the_gan_changes_nothing():
    values = []
    for weights in ({"gan": 1.0, "gan_start": 5}, {}):
        net = module(**weights)
        net.log_dict = lambda *_, **__: None
        loss = net.training_step(clips(), 0)
        loss.backward()
        values.append((loss.item(), net.vae.last_layer.grad))
        if net.discriminator is not None:
            assert all((p.grad == 0).all() for p in net.discriminator.parameters()), "a gradient for DDP, of zero"
    assert values[0][0] == values[1][0] and torch.equal(values[0][1], values[1][1])


def test_steps_with_nan_are_left_out_and_counted():
    class Poisoned(VAEModule):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            return loss * (torch.nan if index in (1, 2) else 1.0)

    states = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            states.append([p.detach().clone() for p in pl_module.parameters()])

    torch.manual_seed(0)
    net = Poisoned(Causal3D(latent_channels=4, unshuffle=(4, 8, 8), widths=(16,)))
    counter = FiniteSteps()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_steps=4, accelerator="cpu", callbacks=[counter, Keep()], enable_checkpointing=False, **quiet
    )
    trainer.fit(net, torch.utils.data.DataLoader([clips()] * 4, batch_size=None))
    assert counter.skipped == 2

    def equal(a, b):
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    assert equal(states[0], states[1]) and equal(states[1], states[2]) and not equal(states[2], states[3])
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_pixels_outside_the_range_are_refused():
    class Bytes:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return Clip("photo", torch.full((3, 1, 8, 8), 255.0), 8.0)

    message = r"clip 'photo' has values from 255 to 255; a dataset gives pixels in \[-1, 1\]"
    with pytest.raises(UserError, match=message):
        Remembered(Bytes())[0]
    with pytest.raises(UserError, match=message):
        readable(Bytes(), 1)


def test_all_losses_by_config(folder, capsys):
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", features_only=True).state_dict(), "resnet.safetensors")
    perceptual = ["perceptual.weight=1", "perceptual.network=resnet10t", "perceptual.weights=resnet.safetensors"]
    others = ["wavelet=0.1", "flicker=0.5", "sizes_per_step=3"]
    train_vae(None, [*DATA, *SHORT, *TINY, *GAN, *perceptual, *others, "run.out=vae"])
    assert list(load_model("vae").components) == ["vae"], "no discriminator in the model folder"


def test_resuming_with_a_gan_is_exact(folder):
    def run(name: str, steps: int, resume: str | None = None) -> dict[str, torch.Tensor]:
        # A rate that does not change: it would follow the length of the run.
        steady = ["optim.decay=0", "optim.warmup=0", f"trainer.max_steps={steps}"]
        words = [*DATA, *SHORT, *TINY, *GAN, *steady, f"run.out={name}", f"run.id={name}"]
        train_vae(None, words, resume=resume)
        return load_model(name).components["vae"].state_dict()

    whole = run("whole", 4)
    half = run("cut", 2)
    again = run("cut", 4, resume="auto")
    assert all(torch.equal(again[key], whole[key]) for key in whole)
    assert not torch.equal(half["encoder.1.weight"], whole["encoder.1.weight"])


def test_init_from_a_wan_folder_and_from_a_model_folder(folder):
    torch.manual_seed(1)
    small = {"preset": "wan21", "latent_channels": 4, "widths": [8, 8, 16, 16], "num_blocks": 1}
    imported = Causal3D(**small)
    save_wan(imported, "theirs")
    node = {"name": "causal3d", **small}
    built = build(vaes, {**node, "init_from": "theirs"})
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), imported.parameters(), strict=True))
    words = ["vae.preset=wan21", "vae.latent_channels=4", "vae.widths=[8,8,16,16]", "vae.num_blocks=1"]
    still = ["optim.lr=0", "optim.muon_lr=0", "trainer.max_steps=1"]
    train_vae(None, [*DATA, *SHORT, *words, *still, "vae.init_from=theirs", "run.out=tuned"])
    tuned = load_model("tuned").components["vae"]
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), imported.parameters(), strict=True))
    assert "init_from" not in Path("tuned/kinema.yaml").read_text()
    again = build(vaes, {**node, "init_from": "tuned"})
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), imported.parameters(), strict=True))
    with pytest.raises(ConfigError, match=r"vae.init_from: theirs is a checkpoint of another architecture"):
        build(vaes, {"name": "causal3d", "init_from": "theirs"})
    with pytest.raises(ConfigError, match="there are no weights at nowhere"):
        build(vaes, {**node, "init_from": "nowhere"})


def test_evaluate_vae(folder, capsys):
    train_vae(None, [*DATA, *SHORT, *TINY, "run.out=vae"])
    words = ["model=vae", "data.name=shapes", "data.num_clips=12", "tile=16", "files=2", "out=report"]
    evaluate_vae_command(None, words)
    report = json.loads(Path("report/report.json").read_text())
    assert report["clips"] == 12 and sum(size["clips"] for size in report["sizes"].values()) == 12
    assert {"psnr", "ssim", "flicker", "seam"} <= report["all"].keys()
    videos = sorted(Path("report").glob("*.mp4"))
    assert len(videos) == 2
    with av.open(str(videos[0])) as container:
        frame = next(container.decode(video=0))
        assert frame.width >= 3 * 32
    assert "psnr" in capsys.readouterr().out


def test_figures_of_known_distortions():
    vae = Causal3D(widths=(8,))
    moving = Clip("a", seeded_normal((3, 5, 16, 16), 0).clamp(-1, 1) * 0.5, 8.0)
    halved = Clip("a", moving.video * 0.5, 8.0)
    figures = by_size([moving], [halved], vae)
    assert figures["all"]["flicker"] == pytest.approx(0.5, rel=1e-5) and figures["5x16x16"] == figures["all"]
    error = (moving.video * 0.5).square().mean()
    assert figures["all"]["psnr"] == pytest.approx((10 * (4 / error).log10()).item(), rel=1e-5)
    assert by_size([moving], [moving], vae)["all"]["ssim"] == pytest.approx(1)
