"""What a generator has read and written of one problem, so that it need not read it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prm_lightning.modeling.node_tree import NodeTree


class Written(NamedTuple):
    """One row of a batch that is done.

    Args:
        ids: its tokens that have keys and values, prompt included.
        layers: for each layer keys and values ``(heads, N, D)`` of the last N of them, which are
            all that were not recalled.
    """

    ids: Sequence[int]
    layers: list[tuple[Tensor, Tensor]]


class Prefixes:
    """Tokens with their keys and values, as a trie: every shared beginning is held once.

    Args:
        config: of the model. Nothing is held for one with sliding windows or another state than
            keys and values, whose prompts are read anew each time.
        limit: bound on the tokens held; 0 holds none.
    """

    def __init__(self, config: Any, limit: int) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        self._config = config
        is_plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
        self.limit = limit if is_plain else 0
        self._tree = NodeTree()

    def __len__(self) -> int:
        return len(self._tree)

    def keep(self, prompts: Sequence[Sequence[int]]) -> None:
        """Drop what none of these prompts begins with."""
        if self._tree:
            self._tree.keep([node for ids in prompts for node in self._tree.walk(ids)])

    def recall(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, list[int]]:
        """A cache with what is known of each prompt, padded on the left, and how many tokens.

        At least one token of each is left to be read, so that something can follow it.
        """
        from transformers import DynamicCache

        cache = DynamicCache(config=self._config)
        known = [self._tree.walk(ids[:-1]) for ids in prompts]
        width = max(map(len, known))
        if width:
            padded = [[0] * (width - len(nodes)) + nodes for nodes in known]
            for number, layer in enumerate(self._tree.cache.layers):
                index = torch.tensor(padded, device=layer.keys.device)  # (P, width)
                keys, values = layer.keys[0][:, index], layer.values[0][:, index]
                cache.update(keys.transpose(0, 1), values.transpose(0, 1), number)
        return cache, list(map(len, known))

    def remember(self, rows: Sequence[Written]) -> None:
        """Take up what rows have computed, as far as the limit allows."""
        size = len(self._tree)
        taken: list[list[tuple[Tensor, Tensor]]] = []
        try:
            for row in rows:
                first = len(self._tree)
                if first + len(row.ids) - len(self._tree.walk(row.ids)) > self.limit:
                    continue
                self._tree.add(row.ids)
                if new := len(self._tree) - first:
                    taken.append([(k[:, -new:], v[:, -new:]) for k, v in row.layers])
            for number, layer in enumerate(zip(*taken, strict=True)):
                keys, values = (torch.cat(parts, dim=1)[None] for parts in zip(*layer, strict=True))
                self._tree.cache.update(keys, values, number)
        except BaseException:
            self._tree.cut(size)  # no token may be there without its keys and values
            raise
