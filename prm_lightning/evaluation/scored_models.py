"""Models and their untrained twins: loaded one after the other, scored once on all data."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urldefrag

from prm_lightning.evaluation.baselines import Surprisal, untrained_twin
from prm_lightning.evaluation.results import Choice, Kind, Threshold
from prm_lightning.evaluation.scored import Journal, Scored, gather_steps, score_solutions
from prm_lightning.files import digest
from prm_lightning.modeling.metrics import fit_threshold
from prm_lightning.modeling.model_folder import MANIFEST, read_manifest
from prm_lightning.scoring.scorers import fingerprint, is_url, load_scorer, our_folder
from prm_lightning.text import normalise_problem
from prm_lightning.types import ALL_CORRECT, Scorer, Solution

TRAINING_PROBLEMS, HASH_DIGITS = "training_problems.json", 16
UNTRAINED, SURPRISAL = "untrained head", "surprisal"

Baselines = Literal["all", "cheap"]


@dataclass(frozen=True)
class ScoredModel:
    """A model with its scores, and what was chosen for it before it saw the test data.

    Args:
        name: in tables.
        kind: ``model`` or ``untrained``.
        test: scores of the test data.
        validation: scores of the validation data; empty without any.
        threshold: that the model was saved with; None where none was fitted.
        choice: the aggregation that it was saved with.
    """

    name: str
    kind: Kind
    test: Sequence[Scored]
    validation: Sequence[Scored]
    threshold: Threshold | None
    choice: Choice


def score_models(
    models: Sequence[str],
    test: Sequence[Solution],
    validation: Sequence[Solution],
    journals: Path,
    baselines: Baselines = "all",
    seed: int = 0,
) -> Iterator[ScoredModel]:
    """Score the data with each model, and with the untrained twin of each backbone of ours.

    After a twin comes the surprisal of its language model, see `Surprisal`.

    Args:
        models: as `load_scorer` takes them.
        test: reported on.
        validation: chosen on.
        journals: what the names of the journals begin with; see `remove_journals`.
        baselines: ``cheap`` leaves the twins and their surprisal out.
        seed: of the twins' heads.
    """
    marks = [fingerprint(model) for model in models]  # an unknown one is an error before the work
    known: set[str] = set()
    for model, mark in zip(models, marks, strict=True):
        scorer = load_scorer(model)
        journal = _journal(journals, mark)
        ours = folder_of_ours(model)
        yield ScoredModel(
            model,
            "model",
            score_solutions(scorer, test, journal),
            score_solutions(scorer, validation, journal),
            _saved_threshold(ours) if ours else None,
            _saved_choice(scorer, model if ours else ""),
        )
        if ours is None or is_url(model) or baselines == "cheap":
            continue
        del scorer  # one backbone in memory is enough
        for name, key, baseline in _untrained(ours, seed, known):
            journal = _journal(journals, key)
            yield ScoredModel(
                f"{model}, {name}",
                "untrained",
                score_solutions(baseline, test, journal),
                score_solutions(baseline, validation, journal),
                None,
                _saved_choice(baseline, "" if name == SURPRISAL else model),
            )


def _untrained(folder: Path, seed: int, known: set[str]) -> Iterator[tuple[str, str, Scorer]]:
    """Baselines of a model's backbone: name, key and scorer of those whose key is not known yet."""
    keys = {UNTRAINED: _base_key(folder, seed), SURPRISAL: _base_key(folder)}
    wanted = [name for name, key in keys.items() if key not in known]
    known.update(keys.values())
    twin = untrained_twin(folder, seed) if wanted else None
    for name in wanted:
        assert twin is not None
        yield name, keys[name], Surprisal(twin) if name == SURPRISAL else twin


def count_known_problems(model: str, solutions: Sequence[Solution]) -> int | None:
    """How many problems of the solutions a model was trained on; None if it does not say.

    A model folder says so in ``training_problems.json``, as hashes of normalised problems.
    """
    folder = folder_of_ours(model)
    file = folder and folder / TRAINING_PROBLEMS
    if not file or not file.is_file():
        return None
    known = set(json.loads(file.read_text(encoding="utf-8"))["problems"])
    return sum(
        digest(problem)[:HASH_DIGITS] in known
        for problem in {normalise_problem(solution.problem) for solution in solutions}
    )


def remove_journals(journals: Path) -> None:
    """Remove what `score_models` kept in case it is cut off."""
    for path in journals.parent.glob(f"{glob.escape(journals.name)}.*.jsonl"):
        path.unlink()


def fit_on(scored: Sequence[Scored], name: str) -> Threshold:
    """The threshold with the highest ProcessBench F1 on validation data.

    Args:
        scored: of validation data, with right and with wrong solutions.
        name: of these data, for the report.

    Raises:
        ValueError: one kind of solution is missing, so that no threshold is better than another.
    """
    scored = [item for item in scored if not item.failure]
    errors = [item.first_error for item in scored]
    if ALL_CORRECT not in errors or not any(error >= 0 for error in errors):
        kind = "wrong" if ALL_CORRECT in errors else "right"
        raise ValueError(
            f"evaluate: no threshold can be fitted on {name}, which has no {kind} solutions; "
            "give --fit_on data with right and wrong ones."
        )
    return Threshold(fit_threshold(gather_steps(scored)[0]), name)


def folder_of_ours(model: str) -> Path | None:
    """The folder of a model of ours, or the one that a server's URL names after ``#``."""
    return our_folder(urldefrag(model)[1] if is_url(model) else model)


def _journal(journals: Path, model: str) -> Journal:
    mark = digest(model)[:12]
    return Journal(journals.with_name(f"{journals.name}.{mark}.jsonl"), model)


def _saved_threshold(folder: Path) -> Threshold | None:
    manifest = read_manifest(folder)
    if manifest.threshold_fitted_on is None:
        return None
    return Threshold(manifest.threshold, manifest.threshold_fitted_on)


def _saved_choice(scorer: Scorer, model: str) -> Choice:
    by = f"as {MANIFEST} of {model} says" if model else "the default for this kind of model"
    return Choice(getattr(scorer, "aggregation", "min"), by)


def _base_key(folder: Path, seed: int | None = None) -> str:
    """What decides how a model's bare backbone reads or, with a seed, how its twin scores."""
    record = read_manifest(folder).to_json()
    names = ("base_model", "revision", "quantize", "backbone", "template", "step_end")
    bare = [record[name] for name in names]
    return json.dumps(
        [SURPRISAL, *bare] if seed is None else [UNTRAINED, seed, record["head"], *bare]
    )
