"""Words as tokens without a vocabulary: nothing to fit, nothing to save, and any word has an embedding.

A word's id is a 48-bit hash. The embedding reads two independent row numbers off it and sums the two rows (hash
embeddings, Svenstrup et al. 2017). Words that share one row still differ by the other: with R rows a half, two of n
words are the same with a probability of about n^2 / (2 R^2), where one table of 2 R rows would give n^2 / (4 R).

Letters: B captions, S tokens, D width, R rows a half of the table.
"""

import re
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor, nn

PAD = 0
START = 1
#: The highest id of all: CLIP's text tower pools the features of the highest id in a caption.
END = 2**48 - 1
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=2**17)
def word_ids(caption: str) -> tuple[int, ...]:
    """The ids of a caption's words, case and punctuation ignored; the same on every machine and in every version."""
    return tuple(_word_id(word) for word in _WORD.findall(caption.lower()))


def pad_ids(rows: list[list[int]], device: torch.device) -> Tensor:
    """Ids of captions of unequal length -> (B, S), `PAD` after their end."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], device=device)


class HashEmbedding(nn.Module):
    """Embeds word ids (..., ) as the sum of two rows, one of each half of a table.

    Args:
        rows: R, the rows of each half. 1024 keep a thousand words apart with a probability of .6, a hundred with .995.
        width: D.
        std: deviation of the initial sum.
    """

    def __init__(self, rows: int, width: int, *, std: float = 1.0) -> None:
        super().__init__()
        self.rows = rows
        self.table = nn.Embedding(2 * rows, width)
        nn.init.normal_(self.table.weight, std=std / 2**0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) -> (B, S, D)."""
        first, second = ids % self.rows, ids // self.rows % self.rows
        return self.table(first) + self.table(self.rows + second)


def _word_id(word: str) -> int:
    digest = int.from_bytes(blake2b(word.encode(), digest_size=6).digest(), "big")
    return 2 + digest % (END - 2)
