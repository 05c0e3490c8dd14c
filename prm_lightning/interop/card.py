"""README.md of an exported model: what it is, how to score with it and how to serve it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# Figures and intervals alone, which need no model; a card is a small evaluation.
from prm_lightning.evaluation.results import draw_problems, summarise
from prm_lightning.interop import DTYPES, Format, ShortDtype
from prm_lightning.interop.parity import Parity
from prm_lightning.modeling.heads import verdict_ids
from prm_lightning.modeling.metrics import measure_part
from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.scored_steps import ScoredSolution, to_step_scores
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.text import normalise_problem

EXAMPLE = ("What is 2 + 3 * 4?", ["3 * 4 = 12.", "2 + 12 = 14."])
RESAMPLES = 1000  # of the problems, for intervals
AUTO_CLASSES = {  # of each format: the class that loads it, the task of the Hub
    "token-classification": ("AutoModelForTokenClassification", "token-classification"),
    "adapter": ("AutoModelForTokenClassification", "token-classification"),
    "sequence-classification": ("AutoModelForSequenceClassification", "text-classification"),
    "qwen-prm": ("AutoModel", "text-classification"),
    "causal-lm": ("AutoModelForCausalLM", "text-generation"),
}


@dataclass(frozen=True)
class Encoding:
    """How the ids of a solution are built, for readers without this project.

    ``before + ids(problem) + after``, then for every step ``ids(step) + [step_end_id]``; a score
    is read at the last id of that and ``branch``, which asks for the verdict and may be empty.
    ``verdicts`` are the tokens for wrong and right where the LM head is read, else None.
    """

    before: list[int]
    after: list[int]
    step_end: str
    step_end_id: int
    branch: list[int]
    verdicts: tuple[int, int] | None = None


def read_encoding(prm: PRM, format: Format) -> Encoding:
    """How a model encodes, seen from what it makes of two problems of one letter."""
    encoder = prm.encoder
    (step,) = encoder.tokenizer(["x"], add_special_tokens=False)["input_ids"]
    steps = len(step) + 1  # with the step end
    a, b = (list(encoder.encode(letter, ["x"]).input_ids)[:-steps] for letter in "ab")
    verdicts = verdict_ids(encoder.tokenizer, encoder.template) if format == "causal-lm" else None
    return Encoding(
        before=shared_beginning(a, b),
        after=shared_beginning(a[::-1], b[::-1])[::-1],
        step_end=encoder.step_end,
        step_end_id=encoder.step_end_id,
        branch=list(encoder.branch),
        verdicts=verdicts,
    )


def shared_beginning(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """What two sequences of ids have in common at their beginnings."""
    return [x for x, y in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))]


def scoring_code(
    folder: str, format: Format, prm: PRM, encoding: Encoding, dtype: ShortDtype
) -> str:
    """Python that scores with an exported folder and knows nothing of this project.

    It defines ``tokenizer``, ``model`` and ``score(problem, steps)``, which gives P(correct) of
    every step. `folder` is as the code names it, `dtype` what an adapter's base is loaded in.
    """
    config = prm.manifest.backbone.settled()
    auto, _ = AUTO_CLASSES[format]
    quantized = format == "adapter" and config.quantize != "none"
    classes = [auto, "AutoTokenizer", *(["BitsAndBytesConfig"] if quantized else [])]
    decode = prm.encoder.tokenizer.decode
    return _render(
        "scoring_code.py.j2",
        folder=folder,
        format=format,
        encoding=encoding,
        prompt=decode(encoding.before) + "{problem}" + decode(encoding.after),
        auto=auto,
        classes=", ".join(sorted(classes)),
        config=config,
        dtype=DTYPES[dtype],
    )


def write_card(
    prm: PRM,
    run: Path,
    folder: str,
    format: Format,
    encoding: Encoding,
    code: str,
    parity: Parity,
) -> str:
    """The text of the card of an export, which its commands call `folder`.

    `run` may hold data.json and val_scores.jsonl of the training; `code` is `scoring_code`.
    """
    base = prm.manifest.backbone.name
    tokens = encoding.verdicts and prm.encoder.tokenizer.convert_ids_to_tokens(encoding.verdicts)
    return _render(
        "card.md.j2",
        manifest=prm.manifest,
        base=base,
        hub_base=base.count("/") == 1 and not Path(base).exists(),
        architecture=type(prm.backbone.causal_lm).__name__.replace("CausalLM", ""),
        context=prm.backbone.context,
        folder=folder,
        format=format,
        task=AUTO_CLASSES[format][1],
        encoding=encoding,
        verdict_tokens=tokens,
        code=code,
        parity=parity,
        example=EXAMPLE,
        example_ids=list(prm.encode(*EXAMPLE).input_ids),
        training=_training(run / "data.json", prm.manifest.data_fingerprint),
        validation=_validation(run / "val_scores.jsonl", prm.manifest.threshold),
    )


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = partial(json.dumps, ensure_ascii=False)
    environment.filters["shell"] = shlex.quote
    return environment.get_template(template).render(values)


def _training(path: Path, fingerprint: str | None) -> dict[str, Any] | None:
    """What data.json says of the training data; None if it is of another run."""
    if not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report if fingerprint in (None, report.get("fingerprint")) else None


def _validation(path: Path, threshold: float) -> dict[str, Any] | None:
    """Metrics of the validation data, from the scores that the run kept."""
    if not path.is_file():
        return None
    rows = [row.values for row in read_rows(str(path)) if isinstance(row, Row)]
    problems = [normalise_problem(str(row.get("problem", i))) for i, row in enumerate(rows)]
    scores = to_step_scores(
        [
            ScoredSolution(row["scores"], row["labels"], row["first_error"], "", problem)
            for row, problem in zip(rows, problems, strict=True)
        ]
    )
    counts = draw_problems(problems, RESAMPLES, seed=0).counts
    measured = {k: summarise(v) for k, v in measure_part(scores, threshold, counts).items()}
    return {
        "solutions": len(rows),
        "steps": len(scores.supervised.labels),
        "problems": len(set(problems)),
        "metrics": {name: m for name, m in measured.items() if not math.isnan(m.value)},
    }
