"""Contrastive training works: a small CLIP learns to tell coloured shapes apart."""

import itertools

import torch

from kinema_text import OpenClipImageText

COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}
SIZES = {"small": 4, "large": 11}
KINDS = list(itertools.product(COLOURS, SIZES, ("square", "bar")))


def picture(colour: str, size: str, shape: str, generator: torch.Generator) -> torch.Tensor:
    """A filled rectangle somewhere on black, (3, 32, 32): a square, or a bar of a third of its height."""
    width = SIZES[size]
    height = width if shape == "square" else max(width // 3, 1)
    top, left = (int(torch.randint(32 - side, (), generator=generator)) for side in (height, width))
    image = torch.full((3, 32, 32), -1.0)
    image[:, top : top + height, left : left + width] = torch.tensor(COLOURS[colour])[:, None, None] * 1.0
    return image


def test_retrieval_rises_far_above_chance():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    captions = [f"a {size} {colour} {shape}" for colour, size, shape in KINDS]
    clip = OpenClipImageText(image_size=32, text_width=64, text_layers=1, text_heads=2, embed_dim=64)
    optimiser = torch.optim.AdamW(clip.parameters(), lr=1e-3)
    clip.train()
    for _ in range(60):
        optimiser.zero_grad()
        for _ in range(2):  # two batches without equal captions in either
            images = torch.stack([picture(*kind, generator) for kind in KINDS])
            clip.loss(images, captions).backward()
        optimiser.step()
    clip.eval()
    images = torch.stack([picture(*kind, generator) for kind in KINDS * 4])
    with torch.no_grad():
        chosen = (clip.encode_image(images) @ clip.encode_text(captions).T).argmax(1)
    right = (chosen == torch.arange(len(KINDS)).repeat(4)).float().mean()
    assert right > 0.7  # chance is 1/16
