"""Text that ships with Python, character by character, and a small transformer for it."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from gallery.training import Batch


class Text(IterableDataset[Batch]):
    """Random stretches of the manual of Python, character by character.

    Args:
        length: of a stretch.
        size: stretches in a batch.
    """

    def __init__(self, *, length: int = 64, size: int = 16) -> None:
        text = "".join(pydoc_data.topics.topics.values())
        self.alphabet = sorted(set(text))
        index = {character: i for i, character in enumerate(self.alphabet)}
        self._text = torch.tensor([index[character] for character in text])
        self._length = length
        self._size = size

    def __iter__(self) -> Iterator[Batch]:
        """Without end, the same each time."""
        generator = torch.Generator().manual_seed(0)
        while True:
            starts = torch.randint(
                len(self._text) - self._length - 1, (self._size,), generator=generator
            )
            cut = torch.stack([self._text[i : i + self._length + 1] for i in starts.tolist()])
            yield cut[:, :-1].contiguous(), cut[:, 1:].contiguous()


class Transformer(nn.Module):
    """A pre-norm decoder with GELU, set up as GPT-2 is; logits are flat.

    Queries, keys and values have weights of their own, so that each is a layer.

    Args:
        vocabulary: number of tokens.
        width: of the residual stream.
        layers: number of blocks.
        length: of a sequence, at most.
    """

    def __init__(self, vocabulary: int, *, width: int = 64, layers: int = 2, length: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[_Block(width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens of shape (batch, length) to logits of shape (batch x length, vocabulary)."""
        embedded = self.tokens(x) + self.positions.weight[: x.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(embedded)))
        return logits.flatten(0, 1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self._heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (
            layer(normed).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        added: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return added
