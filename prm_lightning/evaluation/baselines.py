"""Baselines: constant answers, an untrained head, and what the plain language model finds odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prm_lightning.batching.data import EncodedSolutions
from prm_lightning.evaluation.results import Entry
from prm_lightning.evaluation.scored import Scored
from prm_lightning.modeling.model_folder import read_manifest
from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.scored_steps import Indices
from prm_lightning.modeling.step_model import Pairs, StepModel
from prm_lightning.types import StepBatch

POSITIONS = 256  # whose distribution over the vocabulary is held at a time
MAJORITY = "majority class"


def majority_class(scored: Sequence[Scored]) -> Entry:
    """Every step gets the share of correct ones among the labelled steps, so no step is lower.

    The share comes from these very data, which makes it the best of all constant scores.
    """
    labels = [
        step.label >= 0.5
        for item in scored
        for step in item.solution.steps
        if step.label is not None and step.weight > 0
    ]
    share = sum(labels) / len(labels) if labels else 0.5
    same = [replace(item, scores=(share,) * len(item.scores)) for item in scored]
    return Entry(MAJORITY, "baseline", same)


def constant_index(scored: Sequence[Scored]) -> Entry:
    """One step is flagged in every solution, whatever it says: the commonest first error.

    Which one is counted on these very data, so that no constant index finds more errors. Nothing
    is flagged in a solution with fewer steps: its last one would give away where data end at the
    first wrong step, which a scorer that reads from the front cannot know.
    """
    errors = Counter(item.first_error for item in scored if item.first_error >= 0)
    index = min(errors, key=lambda error: (-errors[error], error), default=0)
    flagged = []
    for item in scored:
        scores = tuple(float(k != index) for k in range(len(item.scores)))
        flagged.append(replace(item, scores=scores))
    return Entry(f"always step {index + 1}", "baseline", flagged)


def untrained_twin(folder: Path, seed: int) -> PRM:
    """The language model of a model folder of ours, with fresh adapters and a fresh head.

    Args:
        folder: which `PRM.from_pretrained` reads.
        seed: of the head.

    Raises:
        ValueError: the folder holds no model.
    """
    manifest = read_manifest(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prm = PRM.create(manifest.backbone, manifest.head, manifest.template, manifest.step_end)
    return prm.to("cuda" if torch.cuda.is_available() else "cpu").eval()


class Surprisal(StepModel):
    """A step is as credible as the number in it that the language model expected least.

    The surprisal of a token is ``-log p(token | all before it)`` in nats. The score of a step is
    ``exp(-s)``, in (0, 1]: with s the largest surprisal of its tokens that hold a digit, it is the
    probability of the least likely of them; in a step without a digit s is the mean surprisal of
    its tokens. The step end is no token of the step. A threshold of 0.5 means nothing here, nor do
    calibration errors: it ranks steps.

    Prefixes that solutions share are computed once, and only the positions that are read have
    their distribution computed.

    Args:
        prm: whose language model reads and whose encoder makes the tokens; adapters are taken as
            they are, so give one with fresh ones for the plain language model.
    """

    def __init__(self, prm: PRM) -> None:
        super().__init__(prm.backbone, nn.Identity(), prm.encoder, f"{prm.name}, surprisal")
        self._encoder = prm.encoder
        self._digits: dict[int, bool] = {}

    def read(self, batch: StepBatch, data: EncodedSolutions, pairs: Pairs) -> Tensor:
        """``(B, S)`` float64, the log-odds ``-s - log(1 - exp(-s))`` of the score."""
        parents = find_parents(batch.position_ids.cpu().numpy())
        ids = batch.input_ids.flatten().tolist()
        largest = np.full(batch.step_nodes.shape, np.inf)
        nodes = self._nodes_of_steps(batch, data, pairs, parents)
        read = sorted({node for steps in nodes for step in steps for node in step})
        surprisal = dict(zip(read, self._surprisals(batch, parents, read), strict=True))
        for b, steps in enumerate(nodes):
            for k, step in enumerate(steps):
                values = [surprisal[node] for node in step]
                largest[b, k] = max(values) if self._holds_digit(ids[step[0]]) else fmean(values)
        s = torch.from_numpy(largest).clamp(min=1e-9)
        return -s - torch.log(-torch.expm1(-s))

    def _nodes_of_steps(
        self, batch: StepBatch, data: EncodedSolutions, pairs: Pairs, parents: Indices
    ) -> list[list[list[int]]]:
        """The nodes to read of each step of each solution: those with a digit, or else all."""
        ids = batch.input_ids.flatten().tolist()
        prompts = {p: self._encoder.prompt_tokens(p) for p in {problem for problem, _ in pairs}}
        found = []
        for reads, index in zip(batch.step_nodes, batch.solution_ids.tolist(), strict=True):
            ends = data.solution(index)[1].tolist()
            path = _path(int(reads[len(ends) - 1]), parents)
            starts = [prompts[pairs[index][0]], *(end + 1 for end in ends[:-1])]
            steps = [path[start:end] for start, end in zip(starts, ends, strict=True)]
            digits = [[node for node in step if self._holds_digit(ids[node])] for step in steps]
            found.append([some or step for some, step in zip(digits, steps, strict=True)])
        return found

    def _surprisals(self, batch: StepBatch, parents: Indices, nodes: list[int]) -> list[float]:
        """``-log p`` of some nodes, each after its ancestors."""
        hidden = self.backbone(batch.input_ids, batch.position_ids, batch.subtree_end).flatten(0, 1)
        lm_head = self.backbone.causal_lm.get_output_embeddings()
        found: list[float] = []
        for start in range(0, len(nodes), POSITIONS):
            some = nodes[start : start + POSITIONS]
            before = torch.from_numpy(parents[some]).to(hidden.device)
            with self.backbone.precision():
                logits = lm_head(hidden[before])  # (N, V)
            tokens = batch.input_ids.flatten()[some]
            found += F.cross_entropy(logits.float(), tokens, reduction="none").tolist()
        return found

    def _holds_digit(self, token: int) -> bool:
        if token not in self._digits:
            text = self._encoder.tokenizer.decode([token])
            self._digits[token] = any(character.isdigit() for character in text)
        return self._digits[token]


def find_parents(depths: Indices) -> Indices:
    """``(R * T,)`` the flat index of every node's parent, from depths ``(R, T)``; -1 for roots.

    In depth-first order a parent is the last node before that is one less deep.
    """
    parents = np.full(depths.size, -1, np.int64)
    last: dict[int, int] = {}
    for node, depth in enumerate(depths.flatten().tolist()):
        if depth:
            parents[node] = last[depth - 1]
        last[depth] = node
    return parents


def _path(node: int, parents: Indices) -> list[int]:
    """From the root to a node."""
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(int(parents[path[-1]]))
    return path[::-1]
