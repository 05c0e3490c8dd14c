"""Score a solution while it is being written: only what is new is computed.

The tokens of all solutions of a problem that were ever scored form one tree, whose keys and values
follow each other in one cache. New steps are new nodes: all of them go through the model in
one pass, and a dense mask tells each which nodes are its ancestors. A state names a path and
copies nothing, so that a beam may branch as often as it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prm_lightning.batching.encode import Encoded
from prm_lightning.modeling.heads import Numbers
from prm_lightning.modeling.step_model import (
    StepModel,
    evaluating,
    require_fit,
    require_numbers,
    require_steps,
)

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
        for token in ids:
            child = self._children.get((nodes[-1] if nodes else ROOT, token))
            if child is None:
                break
            nodes.append(child)
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

    def keep(self, nodes: Iterable[int]) -> None:
        """Drop all other nodes, computed or not; `nodes` has all ancestors of those in it."""
        kept = sorted(set(nodes))
        number = {old: new for new, old in enumerate(kept)} | {ROOT: ROOT}
        for layer in self.cache.layers:
            if layer.is_initialized:  # else an error kept it from being computed
                index = torch.tensor(kept, dtype=torch.int64, device=layer.keys.device)
                layer.keys = layer.keys.index_select(-2, index)
                layer.values = layer.values.index_select(-2, index)
        self.tokens = [self.tokens[i] for i in kept]
        self.depths = [self.depths[i] for i in kept]
        self.parents = [number[self.parents[i]] for i in kept]
        self._children = {
            (parent, token): node
            for node, (parent, token) in enumerate(zip(self.parents, self.tokens, strict=True))
        }

    def sees(self, first: int) -> Tensor:
        """``(Q, N + Q)`` bool: which nodes each of those from number `first` = N on attends to."""
        rows = np.zeros((len(self) - first, len(self)), bool)
        for row, node in enumerate(range(first, len(self))):
            rows[row, node] = True
            ancestor = self.parents[node]
            while first > ancestor > ROOT:
                rows[row, ancestor] = True
                ancestor = self.parents[ancestor]
            if ancestor >= first:  # parents come before their children
                rows[row] |= rows[ancestor - first]
        return torch.from_numpy(rows)


@dataclass(frozen=True)
class State:
    """A solution as far as it goes. It may be extended in several ways, any number of times."""

    problem: str
    steps: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()  # P(correct) of each step
    tree: NodeTree = field(default_factory=NodeTree, repr=False, compare=False)  # of the problem


class IncrementalScorer:
    """Scores next steps with the keys and values of what comes before them.

    Equal to scoring the whole solution again, up to rounding.

    Args:
        model: ours or a public one, with a backbone that runs on `sdpa`.
        max_nodes: bound on the tokens that a problem holds in its cache, beside those that a call
            needs. Past it, what the states of the current call do not need is dropped; a state that
            does need it later computes it again.
    """

    def __init__(self, model: StepModel, max_nodes: int = 16384) -> None:
        self.model = model
        self.max_nodes = max_nodes
        self.name = model.name
        self.aggregation = model.aggregation

    def start(self, problem: str) -> State:
        """A solution without steps. Its prompt is computed together with the first steps."""
        return State(problem)

    def extend(self, state: State, steps: Sequence[str]) -> tuple[list[State], list[float]]:
        """The state after each candidate for the next step, and its P(correct) in [0, 1]."""
        return self.extend_all([(state, steps)])[0]

    def extend_all(
        self, beams: Sequence[tuple[State, Sequence[str]]]
    ) -> list[tuple[list[State], list[float]]]:
        """Continue several solutions at once: one forward pass for all beams of a problem.

        Args:
            beams: states, each with candidates for its next step, which may be equal.

        Returns:
            What `extend` says of each, in order.

        Raises:
            Unscorable: a solution gets longer than the model's context.
            ValueError: a blank step, or a text where steps are expected.
        """
        candidates = [(state, step) for state, steps in beams for step in require_steps(steps)]
        wholes = [(state.problem, (*state.steps, step)) for state, step in candidates]
        encoded = self.model.encoder.encode_all(wholes) if wholes else []
        for (problem, whole), path in zip(wholes, encoded, strict=True):
            tokens = len(path.input_ids) + len(self.model.encoder.branch)
            require_fit(self.model, problem, len(whole), tokens, mixed=True)
        scores = [0.0] * len(candidates)
        for tree in _trees([state for state, _ in candidates]):
            mine = [i for i, (state, _) in enumerate(candidates) if state.tree is tree]
            values = self._score(tree, [encoded[i] for i in mine])
            for i, value in zip(mine, values, strict=True):
                scores[i] = value
        states = iter(
            replace(state, steps=whole, scores=(*state.scores, score))
            for (state, _), (_, whole), score in zip(candidates, wholes, scores, strict=True)
        )
        after = [[next(states) for _ in steps] for _, steps in beams]
        return [(several, [state.scores[-1] for state in several]) for several in after]

    def keep(self, states: Sequence[State]) -> None:
        """Free what only other states of these problems need; they stay usable."""
        for tree in _trees(states):
            begun = [(s.problem, s.steps) for s in states if s.tree is tree and s.steps]
            paths = self.model.encoder.encode_all(begun) if begun else []
            tree.keep(node for path in paths for node in tree.walk(path.input_ids))

    def _score(self, tree: NodeTree, paths: Sequence[Encoded]) -> list[float]:
        """P(correct) of the last step of each path, whose nodes the tree then holds."""
        known = [tree.walk(path.input_ids) for path in paths]
        if len(tree) > self.max_nodes:
            tree.keep(node for nodes in known for node in nodes)
        first = len(tree)
        device = self.model.backbone.device
        try:
            nodes = [tree.add(path.input_ids[: path.step_positions[-1] + 1])[-1] for path in paths]
            kept = len(tree)
            reads = {node: self._hang_read(tree, node, first) for node in dict.fromkeys(nodes)}
            numbers, befores = None, []
            if getattr(self.model.head, "likelihood", None) is not None:
                numbers = self._numbers(tree, paths)
                befores = [self._computed(tree, n, first) for n in numbers.before.tolist()]
            with evaluating(self.model):
                hidden = self.model.backbone.extend(  # of all nodes from number `first` on
                    torch.tensor(tree.tokens[first:], device=device),
                    torch.tensor(tree.depths, device=device),
                    tree.sees(first).to(device),
                    tree.cache,
                )
                rows = torch.tensor([reads[node] - first for node in nodes], device=device)
                log_probs = []
                if numbers is not None:
                    at_numbers = hidden[torch.tensor(befores, device=device) - first]
                    lm_head = self.model.backbone.lm_head
                    log_probs = [numbers.log_probs(at_numbers, lm_head, len(paths))]
                scores = torch.sigmoid(self.model.head(hidden[rows], *log_probs)).tolist()
        except BaseException:
            tree.keep(range(first))  # no node may be there without its keys and values
            raise
        tree.keep(range(kept))
        return require_numbers(scores, self.model.name)

    def _hang_read(self, tree: NodeTree, node: int, first: int) -> int:
        """The node in which the score of a step that ends at `node` is read."""
        for token in self.model.encoder.branch:
            node = tree.hang(node, token)
        return self._computed(tree, node, first)

    def _computed(self, tree: NodeTree, node: int, first: int) -> int:
        """The node if it is new, or else a copy, hung after all that stay, to compute it again."""
        return node if node >= first else tree.hang(tree.parents[node], tree.tokens[node])

    def _numbers(self, tree: NodeTree, paths: Sequence[Encoded]) -> Numbers:
        """The tokens that tell how likely the last step of each path is."""
        tokens = []
        for k, path in enumerate(paths):
            nodes, ends = tree.walk(path.input_ids), (path.prompt_tokens - 1, *path.step_positions)
            tokens += [(nodes[at - 1], nodes[at], k) for at in range(ends[-2] + 1, ends[-1])]
        device = self.model.backbone.device
        step_tokens = torch.tensor(tokens, dtype=torch.int64, device=device).view(-1, 3).T
        return self.model.numbers_of(step_tokens, torch.tensor(tree.tokens, device=device))


def _trees(states: Sequence[State]) -> list[NodeTree]:
    """The different trees of some states, in order."""
    return list({id(state.tree): state.tree for state in states}.values())
