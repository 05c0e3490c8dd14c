"""Score a solution while it is being written: only what is new is computed.

The tokens of all solutions of a problem that were ever scored form one tree, whose keys and values
follow each other in one cache. New steps are new nodes: all of them go through the model in
one pass, and a dense mask tells each which nodes are its ancestors. A state names a path and
copies nothing, so that a beam may branch as often as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from prm_lightning.batching.encode import Encoded
from prm_lightning.modeling.node_tree import NodeTree
from prm_lightning.modeling.step_model import (
    StepModel,
    evaluating,
    require_fit,
    require_numbers,
    require_steps,
)
from prm_lightning.types import Aggregation


@dataclass(frozen=True)
class State:
    """A solution as far as it goes. It may be extended in several ways, any number of times.

    Args:
        problem: the question.
        steps: so far.
        scores: P(correct) of each step.
        tree: what was computed of the problem, shared by all its states.
    """

    problem: str
    steps: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    tree: NodeTree = field(default_factory=NodeTree, repr=False, compare=False)


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

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def aggregation(self) -> Aggregation:
        """Of the model."""
        return self.model.aggregation

    def start(self, problem: str) -> State:
        """A solution without steps. Its prompt is computed together with the first steps."""
        return State(problem)

    def extend(self, state: State, steps: Sequence[str]) -> tuple[list[State], list[float]]:
        """Continue a solution in several ways.

        Args:
            state: the solution so far.
            steps: candidates for the next step, which may be equal.

        Returns:
            The state after each candidate, and its P(correct) in [0, 1].

        Raises:
            Unscorable: a solution gets longer than the model's context.
            ValueError: a blank step, or a text where steps are expected.
        """
        return self.extend_all([(state, steps)])[0]

    def extend_all(
        self, beams: Sequence[tuple[State, Sequence[str]]]
    ) -> list[tuple[list[State], list[float]]]:
        """Continue several solutions at once: one forward pass for all beams of a problem.

        Args:
            beams: states, each with candidates for its next step.

        Returns:
            What `extend` says of each, in order.

        Raises:
            Unscorable: a solution gets longer than the model's context.
            ValueError: a blank step, or a text where steps are expected.
        """
        candidates = [(state, step) for state, steps in beams for step in require_steps(steps)]
        if not candidates:
            return [([], []) for _ in beams]
        encoded = self._encode(candidates)
        scores = [0.0] * len(candidates)
        for tree in {id(state.tree): state.tree for state, _ in candidates}.values():
            mine = [i for i, (state, _) in enumerate(candidates) if state.tree is tree]
            values = self._score(tree, [encoded[i] for i in mine])
            for i, value in zip(mine, values, strict=True):
                scores[i] = value
        following = iter(zip(candidates, scores, strict=True))
        return [_after([next(following) for _ in steps]) for _, steps in beams]

    def keep(self, states: Sequence[State]) -> None:
        """Free what only other states of these problems need; they stay usable."""
        for tree in {id(state.tree): state.tree for state in states}.values():
            begun = [(s.problem, s.steps) for s in states if s.tree is tree and s.steps]
            paths = self.model.encoder.encode_all(begun) if begun else []
            tree.keep([node for path in paths for node in tree.walk(path.input_ids)])

    def _encode(self, candidates: Sequence[tuple[State, str]]) -> list[Encoded]:
        wholes = [(state.problem, (*state.steps, step)) for state, step in candidates]
        encoded = self.model.encoder.encode_all(wholes)
        for (problem, steps), path in zip(wholes, encoded, strict=True):
            tokens = len(path.input_ids) + len(self.model.encoder.branch)
            require_fit(self.model, problem, len(steps), tokens)
        return encoded

    def _score(self, tree: NodeTree, paths: Sequence[Encoded]) -> list[float]:
        """P(correct) of the last step of each path, whose nodes the tree then holds."""
        known = [tree.walk(path.input_ids) for path in paths]
        if len(tree) > self.max_nodes:
            tree.keep([node for nodes in known for node in nodes])
        first = len(tree)
        try:
            nodes = [tree.add(path.input_ids[: path.step_positions[-1] + 1])[-1] for path in paths]
            kept = len(tree)
            reads = {node: self._hang_read(tree, node, first) for node in dict.fromkeys(nodes)}
            logits = self._logits(tree, first, [reads[node] - first for node in nodes])
        except BaseException:
            tree.cut(first)  # no node may be there without its keys and values
            raise
        tree.cut(kept)
        return require_numbers(torch.sigmoid(logits).tolist(), self.model.name)

    def _hang_read(self, tree: NodeTree, node: int, first: int) -> int:
        """The node to read, hung after all nodes that stay, unless it is a new one itself."""
        for token in self.model.encoder.branch:
            node = tree.hang(node, token)
        if node < first:  # computed before, when its hidden state was not kept
            return tree.hang(tree.parents[node], tree.tokens[node])
        return node

    def _logits(self, tree: NodeTree, first: int, rows: list[int]) -> Tensor:
        """Compute the nodes from number `first` on; ``(len(rows),)`` log-odds at some of them."""
        device = self.model.backbone.device
        with evaluating(self.model):
            hidden = self.model.backbone.extend(
                torch.tensor(tree.tokens[first:], device=device),
                torch.tensor(tree.depths, device=device),
                tree.sees(first).to(device),
                tree.cache,
            )
            logits: Tensor = self.model.head(hidden[torch.tensor(rows, device=device)])
        return logits


def _after(
    scored: Sequence[tuple[tuple[State, str], float]],
) -> tuple[list[State], list[float]]:
    """The states after some candidates, and their scores."""
    states = [
        replace(state, steps=(*state.steps, step), scores=(*state.scores, score))
        for (state, step), score in scored
    ]
    return states, [score for _, score in scored]
