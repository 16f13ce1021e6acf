"""Attention that never looks across clips, over tokens packed so that clips of equal length stand together.

Letters: L tokens, S text tokens, H heads, E head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from kinema_dit.neighbourhoods import Neighbourhoods
from kinema_dit.packing import Packing

#: Bytes of a value in half precision. Under autocast values are in it, while normalised queries and keys are not.
HALF = 2
#: Up to so many keys the CPU's fused kernel is slower than two matrix products in half precision (its backward takes up
#: to ten times as long), and in a compiled graph in full precision too.
SHORT = 512
#: torch has it from 2.10 on. Before, clips of equal length share a call on a GPU too.
VARLEN = find_spec("torch.nn.attention.varlen") is not None
#: cuDNN's kernel is a GPU's fastest, but it makes a plan for each size that it meets, in a tenth of a second. So it is
#: for clips from so many tokens on, one by one: such a clip fills a GPU by itself, and its plan serves in any pack.
LONG = 4096
#: cuDNN's kernel takes masks of a multiple of so many keys: others can be unaligned from the second clip on, and with
#: an odd multiple of 64 gradients can be no numbers (https://github.com/pytorch/pytorch/issues/196678).
MASKED = 128
ANY_SIZE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def neighbour_attention(q: Tensor, k: Tensor, v: Tensor, near: Neighbourhoods) -> Tensor:
    """Self-attention of tokens to some of their clip.

    Args:
        q, k, v: (L, H, E).
        near: which.

    Returns:
        (L, H, E).
    """
    out: list[Tensor] = []
    for queries, keys in near.groups:
        heads = [x[index].transpose(1, 2) for x, index in ((q, queries), (k, keys), (v, keys))]
        out.append(_attend(*heads).transpose(1, 2).flatten(0, 1))
    return torch.cat(out)[near.places]


def packed_attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Self-attention within each clip.

    Args:
        q, k, v: (L, H, E).
        packing: of the tokens; exactly block-diagonal.

    Returns:
        (L, H, E).
    """
    groups = packing.groups
    out: list[Tensor] = []
    if v.is_cuda and _has_varlen(v):
        q, k = q.to(v.dtype), k.to(v.dtype)
        short = [group for group in groups if group[1] < LONG]  # they stand first
        if short:
            rows = sum(count * length for count, length in short)
            out.append(_varlen_attention(q[:rows], k[:rows], v[:rows], short))
            q, k, v, groups = q[rows:], k[rows:], v[rows:], groups[len(short) :]
    counts = [count * length for count, length in groups]
    for (count, length), *qkv in zip(groups, q.split(counts), k.split(counts), v.split(counts), strict=True):
        heads = [part.unflatten(0, (count, length)).transpose(1, 2) for part in qkv]
        out.append(_attend(*heads).transpose(1, 2).flatten(0, 1))
    return torch.cat(out)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, packing: Packing) -> Tensor:
    """Attention of each clip's tokens to its own text.

    Args:
        q: (L, H, E).
        k, v: (B, S, H, E), clips in packed order.
        bias: (B, 1, 1, S), 0 for real tokens and minus infinity for padding.
        packing: of the tokens.

    Returns:
        (L, H, E).
    """
    out: list[Tensor] = []
    groups = packing.groups
    clips = [count for count, _ in groups]
    tokens = [count * length for count, length in groups]
    parts = zip(groups, q.split(tokens), k.split(clips), v.split(clips), bias.split(clips), strict=True)
    for (count, length), queries, keys, values, hidden in parts:
        heads = queries.unflatten(0, (count, length)).transpose(1, 2)
        attended = _attend(heads, keys.transpose(1, 2), values.transpose(1, 2), hidden)
        out.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(out)


def joint_attention(
    video: Sequence[Tensor], text: Sequence[Tensor], bias: Tensor, packing: Packing
) -> tuple[Tensor, Tensor]:
    """Attention of each clip's tokens and its text to both.

    Args:
        video: queries, keys and values (L, H, E).
        text: the same (B, S, H, E), clips in packed order.
        bias: (B, 1, 1, S), 0 for real tokens of the text and minus infinity for padding.
        packing: of the tokens.

    Returns:
        (L, H, E) and (B, S, H, E).
    """
    seen: list[Tensor] = []
    heard: list[Tensor] = []
    groups = packing.groups
    clips = [count for count, _ in groups]
    tokens = [count * length for count, length in groups]
    of_clips, of_text = ([x.split(sizes) for x in both] for both, sizes in ((video, tokens), (text, clips)))
    for (count, length), *six, hidden in zip(groups, *of_clips, *of_text, bias.split(clips), strict=True):
        own = [x.unflatten(0, (count, length)) for x in six[:3]]
        q, k, v = (torch.cat([word, x], dim=1).transpose(1, 2) for word, x in zip(six[3:], own, strict=True))
        out = _attend(q, k, v, pad(hidden, (0, length))).transpose(1, 2)  # (count, S + length, H, E)
        words, clip = out.split([text[0].shape[1], length], dim=1)
        seen.append(clip.flatten(0, 1))
        heard.append(words)
    return torch.cat(seen), torch.cat(heard)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, H, L, E) x (B, H, S, E) -> (B, H, L, E)."""
    q, k, bias = q.to(v.dtype), k.to(v.dtype), None if bias is None else bias.to(v.dtype)
    if q.is_cuda:
        return _attend_on_gpu(q, k, v, bias)
    if k.shape[2] > SHORT or not (v.element_size() == HALF or torch.compiler.is_compiling()):
        return scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1).to(v.dtype) @ v


def _attend_on_gpu(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    if not VARLEN or q.shape[2] < LONG or (bias is not None and bias.shape[-1] % MASKED):
        with sdpa_kernel(ANY_SIZE):
            return scaled_dot_product_attention(q, k, v, attn_mask=bias)
    masks = [None] * len(q) if bias is None else bias.split(1)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *ANY_SIZE], set_priority=True):
        parts = zip(q.split(1), k.split(1), v.split(1), masks, strict=True)
        return torch.cat([scaled_dot_product_attention(*qkv, attn_mask=mask) for *qkv, mask in parts])


def _has_varlen(v: Tensor) -> bool:
    """Whether FlashAttention's kernel for many lengths takes such values and this GPU."""
    fits = v.element_size() == HALF and v.shape[-1] % 8 == 0 and v.shape[-1] <= 256
    return VARLEN and fits and torch.cuda.get_device_capability(v.device) >= (8, 0)


def _varlen_attention(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[tuple[int, int]]) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  CUDA only

    lengths = torch.tensor([length for count, length in groups for _ in range(count)], dtype=torch.int32)
    ends = pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)).to(q.device, non_blocking=True)
    longest = max(length for _, length in groups)
    return varlen_attn(q, k, v, ends, ends, longest, longest)


@dataclass(frozen=True)
class Kernels:
    """The functions of this file, as blocks call them."""

    packed: Callable[..., Tensor]
    near: Callable[..., Tensor]
    cross: Callable[..., Tensor]
    joint: Callable[..., tuple[Tensor, Tensor]]

    def outside(self) -> "Kernels":
        """The same, left out of compiled graphs.

        What they do depends on the sizes of the clips: a graph that holds them is compiled anew for every mix of sizes.
        """
        return Kernels(*map(torch.compiler.disable, (self.packed, self.near, self.cross, self.joint)))


KERNELS = Kernels(packed_attention, neighbour_attention, cross_attention, joint_attention)
