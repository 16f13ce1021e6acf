"""Our own layout: blocks of pixels are folded into channels, so that little is computed at full resolution.

Convolutions with kernels keep the resolution; between levels, blocks of cells are mapped linearly.

Letters: B clips, C channels, T H W frames, rows, columns in pixels, t h w in latents.
"""

from collections.abc import Sequence

from torch import nn

from kinema_vae.layers import CausalConv3d, CausalSequence, NormAct, ResidualBlock, conv_shuffle, unshuffle_conv


def shuffle_encoder(
    latent_channels: int,
    front: tuple[int, int, int],
    steps: Sequence[tuple[int, int, int]],
    widths: Sequence[int],
    num_blocks: int,
    time_kernel: int,
) -> CausalSequence:
    """(B, 3, T, H, W) -> mean and log variance in one (B, 2 C, t, h, w)."""
    layers: list[nn.Module] = []
    for before, width, stride in zip((3, *widths), widths, (front, *steps), strict=False):
        layers += unshuffle_conv(before, width, stride)
        layers += [ResidualBlock(width, width, time_kernel=time_kernel) for _ in range(num_blocks)]
    # Without this normalisation a VAE learns faster, but its latents have heavy tails that a diffusion model learns
    # far more slowly (packages/vae/README.md).
    return CausalSequence(
        [*layers, NormAct(widths[-1]), CausalConv3d(widths[-1], 2 * latent_channels, (time_kernel, 3, 3))]
    )


def shuffle_decoder(
    latent_channels: int,
    front: tuple[int, int, int],
    steps: Sequence[tuple[int, int, int]],
    widths: Sequence[int],
    num_blocks: int,
    time_kernel: int,
) -> CausalSequence:
    """(B, C, t, h, w) -> (B, 3, T, H, W): the encoder's levels in reverse."""
    layers: list[nn.Module] = [CausalConv3d(latent_channels, widths[-1], (time_kernel, 3, 3))]
    for width, after, stride in zip(widths[::-1], (*widths[-2::-1], 3), (*steps[::-1], front), strict=True):
        layers += [ResidualBlock(width, width, time_kernel=time_kernel) for _ in range(num_blocks)]
        layers += [NormAct(width)] if after == 3 else []
        layers += conv_shuffle(width, after, stride)
    return CausalSequence(layers)
