"""Baselines: constant answers, an untrained head, and what the plain language model finds odd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prm_lightning.batching.data import EncodedSolutions
from prm_lightning.modeling.metrics import majority_scores
from prm_lightning.modeling.model_folder import read_manifest
from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.scored_steps import Indices, StepScores
from prm_lightning.modeling.step_model import Pairs, StepModel
from prm_lightning.types import StepBatch

POSITIONS = 256  # whose distribution over the vocabulary is held at a time
MAJORITY = "majority class"


def constant_baselines(scores: StepScores) -> dict[str, StepScores]:
    """By name: the same steps as a scorer sees them that knows only the labels of these very data.

    ``majority class`` gives every step the share of correct ones. ``always step k`` flags the
    commonest first error in every solution that has such a step; flagging the last one in the
    others would give away where data end at the first wrong step, which a scorer that reads from
    the front cannot know.
    """
    errors = scores.first_errors[scores.starts]
    commonest = int(np.bincount(errors[errors >= 0]).argmax()) if (errors >= 0).any() else 0
    flagged = (scores.positions != commonest).astype(np.float64)
    return {
        MAJORITY: majority_scores(scores),
        f"always step {commonest + 1}": scores._replace(probabilities=flagged),
    }


def untrained_twin(folder: Path, seed: int, *, trust_remote_code: bool = False) -> PRM:
    """The language model of a model folder of ours, with fresh adapters and a fresh head."""
    manifest = read_manifest(folder)
    backbone = replace(manifest.backbone, trust_remote_code=trust_remote_code)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prm = PRM.create(backbone, manifest.head, manifest.template, manifest.step_end)
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
        parents = _find_parents(batch.position_ids.cpu().numpy())
        nodes = dict(self._nodes_of_steps(batch, data, parents))
        read = sorted(set(chain.from_iterable(nodes.values())))
        surprisal = dict(zip(read, self._surprisals(batch, parents, read), strict=True))
        ids = batch.input_ids.flatten().tolist()
        found = np.full(batch.step_nodes.shape, np.inf)
        for place, step in nodes.items():
            values = [surprisal[node] for node in step]
            found[place] = max(values) if self._holds_digit(ids[step[0]]) else fmean(values)
        s = torch.from_numpy(found).clamp(min=1e-9)
        return -s - torch.log(-torch.expm1(-s))

    def _nodes_of_steps(
        self, batch: StepBatch, data: EncodedSolutions, parents: Indices
    ) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """By row and step: the nodes to read, those with a digit or else all of the step."""
        ids = batch.input_ids.flatten().tolist()
        for b, index in enumerate(batch.solution_ids.tolist()):
            ends = data.solution(index)[1].tolist()
            path = [int(batch.step_nodes[b, len(ends) - 1])]
            while parents[path[-1]] >= 0:
                path.append(int(parents[path[-1]]))
            path.reverse()  # from the root on
            start = int(data.prompts[index])
            for k, end in enumerate(ends):
                step = path[start:end]
                yield (b, k), [node for node in step if self._holds_digit(ids[node])] or step
                start = end + 1

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


def _find_parents(depths: Indices) -> Indices:
    """``(R * T,)`` the flat index of every node's parent, from depths ``(R, T)``; -1 for roots."""
    parents = np.full(depths.size, -1, np.int64)
    last: dict[int, int] = {}  # of each depth: nodes are in depth-first order
    for node, depth in enumerate(depths.flatten().tolist()):
        if depth:
            parents[node] = last[depth - 1]
        last[depth] = node
    return parents
