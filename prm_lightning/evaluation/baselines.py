"""Baselines: constant answers, an untrained head, and what the plain language model finds odd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from prm_lightning.modeling.metrics import majority_scores
from prm_lightning.modeling.model_folder import read_manifest
from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.scored_steps import StepScores
from prm_lightning.modeling.step_model import StepModel
from prm_lightning.types import StepBatch

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

    def forward(self, batch: StepBatch) -> Tensor:
        """``(B, S)`` float64, the log-odds ``-s - log(1 - exp(-s))`` of the score."""
        numbers = self.numbers_of(batch.step_tokens, batch.input_ids)
        at_steps, at_numbers = self._hidden(batch, numbers.before)
        lm_head = self.backbone.causal_lm.get_output_embeddings().weight
        found = numbers.log_probs(at_numbers, lm_head, len(at_steps)).double().clamp(max=-1e-9)
        return (found - torch.log(-torch.expm1(found))).view(batch.step_nodes.shape)
