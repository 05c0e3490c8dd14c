"""Token trees that grow: tokens that were computed, with their keys and values in one cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = -1  # parent of the first token


class NodeTree:
    """The tokens of a problem that were computed, as a trie, with their keys and values.

    A node's number is its place in the cache. Nodes are only ever added, or dropped by `keep`.
    """

    def __init__(self) -> None:
        from transformers import DynamicCache

        self.cache: Any = DynamicCache()
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def walk(self, ids: Sequence[int]) -> list[int]:
        """The nodes of the longest prefix of `ids` that is there."""
        nodes: list[int] = []
        node = ROOT
        for token in ids:
            child = self._children.get((node, token))
            if child is None:
                break
            nodes.append(child)
            node = child
        return nodes

    def add(self, ids: Sequence[int]) -> list[int]:
        """The nodes of `ids`; those that were not there are new and not yet computed."""
        nodes = self.walk(ids)
        for token in ids[len(nodes) :]:
            parent = nodes[-1] if nodes else ROOT
            nodes.append(self.hang(parent, token))
            self._children[parent, token] = nodes[-1]
        return nodes

    def hang(self, parent: int, token: int) -> int:
        """A new node below `parent` that `walk` does not find: one to be read and cut off again."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(0 if parent == ROOT else self.depths[parent] + 1)
        return len(self.tokens) - 1

    def cut(self, size: int) -> None:
        """Drop the nodes from number `size` on, computed or not."""
        for layer in self._layers():
            layer.keys = layer.keys[..., :size, :]
            layer.values = layer.values[..., :size, :]
        for node in range(size, len(self)):
            place = (self.parents[node], self.tokens[node])
            if self._children.get(place) == node:
                del self._children[place]
        del self.tokens[size:], self.parents[size:], self.depths[size:]

    def keep(self, nodes: Sequence[int]) -> None:
        """Drop all other nodes.

        Args:
            nodes: with all their ancestors.
        """
        kept = np.unique(np.asarray(nodes, np.int64))
        number = {int(old): new for new, old in enumerate(kept)} | {ROOT: ROOT}
        for layer in self._layers():
            index = torch.from_numpy(kept).to(layer.keys.device)
            layer.keys = layer.keys.index_select(-2, index)
            layer.values = layer.values.index_select(-2, index)
        self.tokens = [self.tokens[i] for i in kept]
        self.depths = [self.depths[i] for i in kept]
        self.parents = [number[self.parents[i]] for i in kept]
        self._children = {
            (parent, token): node
            for node, (parent, token) in enumerate(zip(self.parents, self.tokens, strict=True))
        }

    def ancestors(self, node: int) -> list[int]:
        """Its ancestors, itself included."""
        path = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return path

    def sees(self, first: int) -> Tensor:
        """``(Q, N + Q)`` bool: which nodes each of those from number `first` = N on attends to."""
        rows = np.zeros((len(self) - first, len(self)), bool)
        for row, node in enumerate(range(first, len(self))):
            parent = self.parents[node]
            if parent >= first:  # parents come before their children
                rows[row] = rows[parent - first]
            else:
                rows[row, self.ancestors(parent)] = True
            rows[row, node] = True
        return torch.from_numpy(rows)

    def _layers(self) -> list[Any]:
        """Of the cache; one that an error kept from being computed is left out."""
        return [layer for layer in self.cache.layers if layer.is_initialized]
