"""A small bidirectional transformer over words, trained jointly with the diffusion transformer.

Letters: B captions, S tokens of the longest, N tokens of all, D width.
"""

import torch
from einops import rearrange
from kinema_core import TextEncoder, TextFeatures
from torch import Tensor, nn
from torch.nn.functional import gelu

from kinema_text.words import PAD, START, HashEmbedding, pad_ids, word_ids


class Block(nn.Module):
    """A pre-norm transformer block over packed tokens: what is no token costs nothing outside the attention."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, int(mlp_ratio * width))
        self.contract = nn.Linear(int(mlp_ratio * width), width)

    def forward(self, x: Tensor, places: Tensor, bias: Tensor) -> Tensor:
        """Packed (N, D), the place of each token among B * S, an additive bias (B, 1, 1, S) -> (N, D)."""
        qkv = unpack(self.to_qkv(self.norm_attention(x)), places, bias.shape[0] * bias.shape[-1])
        q, k, v = rearrange(qkv, "(b s) (n h d) -> n b h s d", b=bias.shape[0], n=3, h=self.num_heads)
        # Written out: the fused attention's backward is slow on a CPU for sequences this short.
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1)
        x = x + self.to_out(rearrange(weights @ v, "b h s d -> (b s) (h d)")[places])
        return x + self.contract(gelu(self.expand(self.norm_mlp(x))))


def unpack(x: Tensor, places: Tensor, length: int) -> Tensor:
    """Packed (N, D) -> (length, D), zero where there is no token."""
    return x.new_zeros(length, x.shape[1]).index_copy(0, places, x)


class TinyText(TextEncoder):
    """Words -> a few transformer blocks -> a token a word, and their mean as pooled features.

    Words are hashed (see `kinema_text.words`), so there is no vocabulary and every word has an embedding. A word
    is a run of letters, digits and underscores in the lower-cased caption: fit for languages that write spaces.

    Args:
        width: D of tokens and pooled features.
        depth: number of blocks.
        num_heads: heads of attention; they share `width` evenly.
        mlp_ratio: hidden width of a block's MLP over `width`.
        word_rows: rows in each half of the embedding table.
        max_tokens: longest sequence, the start token included; words beyond are cut off.

    Raises:
        ValueError: `width` is no multiple of `num_heads`, or `max_tokens` is below 1.
    """

    trainable = True

    def __init__(
        self,
        *,
        width: int = 128,
        depth: int = 2,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        word_rows: int = 1024,
        max_tokens: int = 48,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"tiny: a width of {width} cannot be shared by {num_heads} heads; use a multiple")
        if max_tokens < 1:
            raise ValueError(f"tiny: max_tokens is {max_tokens}; even the empty caption takes 1")
        self.width = width
        self.pooled_width = width
        self.max_tokens = max_tokens
        self.words = HashEmbedding(word_rows, width)
        self.places = nn.Parameter(0.1 * torch.randn(max_tokens, width))
        self.blocks = nn.ModuleList(Block(width, num_heads, mlp_ratio) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)

    def forward(self, captions: list[str]) -> TextFeatures:
        """Captions -> tokens (B, S, D), S that of the longest; mask (B, S); pooled (B, D).

        The first token is a start token, the only one of the empty caption.
        """
        ids = pad_ids([[START, *word_ids(caption)][: self.max_tokens] for caption in captions], self.places.device)
        mask = ids != PAD  # (B, S)
        bias = self.places.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]  # (B, 1, 1, S)
        packed = mask.flatten().nonzero()[:, 0]  # (N,)
        x = self.words(ids.flatten()[packed]) + self.places[packed % ids.shape[1]]  # (N, D)
        for block in self.blocks:
            x = block(x, packed, bias)
        tokens = unpack(self.norm_out(x), packed, ids.numel()).unflatten(0, ids.shape)  # (B, S, D), padding is zero
        return TextFeatures(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True))
