"""Video VAEs of the diffusers library behind our interface: the plug-ins `diffusers` and `diffusers_wan`.

Letters: B clips, C channels, T H W frames, rows, columns in pixels, t h w in latents.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from kinema_core import VideoVAE
from torch import Tensor, nn


class DiffusersVAE(VideoVAE):
    """Any video `AutoencoderKL*` of diffusers that codes the first frame alone, with its own whitening.

    It does not stream: their normalisation or their decoders look over time, so a piece is not a part of the whole.
    `encode_stream` and `decode_stream` gather all pieces first. (For Wan's VAE, `load_wan` gives a network that does.)

    Args:
        folder: as diffusers saved it.
        class_name: without a folder, a class such as "AutoencoderKLCogVideoX", with random weights.
        config: its keyword arguments.

    Raises:
        ValueError: diffusers is not installed, no such folder or class, or no video VAE of latents 1 + n frames.
    """

    streams = False

    def __init__(
        self,
        *,
        folder: str | None = None,
        class_name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if (folder is None) == (class_name is None):
            raise ValueError("give either the folder of a VAE that diffusers saved, or class_name and config")
        self.model = _loaded(folder) if folder is not None else _class(str(class_name))(**(config or {}))
        self.stride = _stride(self.model)
        settings = self.model.config
        self.latent_channels = int(settings.get("latent_channels") or settings["z_dim"])
        mean, std = _whitening(self.model, self.latent_channels)
        self.register_buffer("latent_mean", mean)
        self.register_buffer("latent_std", std)

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, 1 + st n, H, W) in [-1, 1] -> the whitened mean (B, C, 1 + n, h, w)."""
        return (self.posterior(video)[0] - self._per_channel(self.latent_mean)) / self._per_channel(self.latent_std)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 1 + st n, H, W) -> (mean, log variance) before whitening, each (B, C, 1 + n, h, w)."""
        self.latent_grid(*video.shape[2:])
        _, sh, sw = self.stride
        pad = (0, -video.shape[4] % sw, 0, -video.shape[3] % sh, 0, 0)
        posterior = self.model.encode(nn.functional.pad(video, pad, mode="replicate")).latent_dist
        return posterior.mean, posterior.logvar

    def decode(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Whitened (B, C, t, h, w) -> (B, 3, 1 + st (t - 1), H, W), cropped to `size` where given."""
        video = self.model.decode(z * self._per_channel(self.latent_std) + self._per_channel(self.latent_mean)).sample
        return video if size is None else video[..., : size[0], : size[1]]

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """All pieces at once, when the last has come."""
        yield self.encode(torch.cat(list(chunks), dim=2))

    def decode_stream(self, latents: Iterable[Tensor], size: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """All pieces at once, when the last has come."""
        yield self.decode(torch.cat(list(latents), dim=2), size)

    def set_whitening(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and standard deviation (C,) of the unwhitened mean over a data set."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last convolution."""
        return [p for p in self.model.decoder.parameters() if p.dim() >= 4][-1]

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)


class DiffusersWanVAE(DiffusersVAE):
    """diffusers' `AutoencoderKLWan` from scratch: a peer to compare `causal3d` with.

    Args:
        latent_channels: C of the latents.
        width: channels of the first level, which `mult` multiplies.
        mult: of each level, finest first; each level but the last halves rows and columns.
        over_time: which of those halve the frames too: two, for diffusers feeds this network four frames at a time.
        num_blocks: residual blocks a level.

    Raises:
        ValueError: as `DiffusersVAE`, or time is not compressed by 4.
    """

    def __init__(
        self,
        *,
        latent_channels: int = 16,
        width: int = 96,
        mult: Sequence[int] = (1, 2, 4, 4),
        over_time: Sequence[bool] = (False, True, True),
        num_blocks: int = 2,
    ) -> None:
        if len(over_time) != len(mult) - 1 or sum(over_time) != 2:
            raise ValueError(
                f"over_time is {list(over_time)}; {len(mult)} levels need {len(mult) - 1}, two of them true"
            )
        config = {
            "base_dim": width,
            "z_dim": latent_channels,
            "dim_mult": list(mult),
            "num_res_blocks": num_blocks,
            "temperal_downsample": list(over_time),
            "latents_mean": [0.0] * latent_channels,
            "latents_std": [1.0] * latent_channels,
            "scale_factor_temporal": 2 ** sum(over_time),
            "scale_factor_spatial": 2 ** (len(mult) - 1),
        }
        super().__init__(class_name="AutoencoderKLWan", config=config)


def _diffusers() -> Any:
    try:
        import diffusers  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ValueError("this VAE needs diffusers: pip install 'kinema-vae[diffusers]'") from error
    return diffusers


def _class(name: str) -> Any:
    found = getattr(_diffusers(), name, None)
    if found is None or not name.startswith("AutoencoderKL"):
        raise ValueError(f"diffusers has no VAE {name!r}; known are its classes AutoencoderKL...")
    return found


def _loaded(folder: str) -> Any:
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no config.json; give the folder of a VAE that diffusers saved")
    try:
        return _class(json.loads(file.read_text()).get("_class_name", "")).from_pretrained(folder)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be loaded: {' '.join(str(error).split())}") from error


def _stride(model: Any) -> tuple[int, int, int]:
    def found(*names: str) -> int | None:
        values = [model.config.get(name) or vars(model).get(name) for name in names]
        return next((int(value) for value in values if isinstance(value, int | float)), None)

    blocks = model.config.get("block_out_channels")
    time = found("temporal_compression_ratio", "time_compression_ratio", "scale_factor_temporal")
    space = found("spatial_compression_ratio", "scale_factor_spatial") or (blocks and 2 ** (len(blocks) - 1))
    if time is None or not space:
        raise ValueError(f"{type(model).__name__} does not say by how much it compresses time and space")
    return time, space, space


def _whitening(model: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents: z is coded as (z - mean) / std * scaling_factor."""
    settings = model.config

    def values(name: str, other: float) -> Tensor:
        found = dict(model.named_buffers()).get(name, settings.get(name))
        return torch.full((channels,), other) if found is None else torch.as_tensor(found).float().flatten().clone()

    mean = values("latents_mean", settings.get("shift_factor") or 0.0)
    return mean, values("latents_std", 1.0) / (settings.get("scaling_factor") or 1.0)
