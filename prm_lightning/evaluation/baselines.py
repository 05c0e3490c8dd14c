"""What a scorer without any skill would say of the same solutions, in the same tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prm_lightning.evaluation.results import Entry
from prm_lightning.evaluation.scored import Scored

if TYPE_CHECKING:
    from prm_lightning.modeling.prm import PRM

MAJORITY = "majority class"


def majority_class(scored: Sequence[Scored]) -> Entry:
    """Every step gets the share of correct ones among the labelled steps, so no step stands out.

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
    import torch

    from prm_lightning.modeling.prm import PRM, read_manifest

    manifest = read_manifest(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prm = PRM.create(manifest.backbone, manifest.head, manifest.template, manifest.step_end)
    return prm.to("cuda" if torch.cuda.is_available() else "cpu").eval()
