"""What a public process reward model expects: how its text is built and where its score is read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from prm_lightning.modeling.backbone import AnyDtype as AnyDtype
from prm_lightning.modeling.model_folder import checked_fields
from prm_lightning.types import Aggregation

Layout = Literal["pieces", "text", "chat", "turns", "prm-chat", "prm-plain", "prm-guide"]
HeadLayout = Literal["linear", "two_layer", "value", "lm"]

MANIFEST_FILE = "scorer.json"
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class PublicManifest:
    """How to score with a model that others trained.

    Args:
        model: a folder or Hub id: weights with their tokenizer, or a PEFT adapter.
        layout: how problem and steps become tokens, and where a step's score is read.
            ``pieces``: BOS if the tokenizer has one, prompt, then every step and its end, each
            tokenized on its own; read at the last token of the step end.
            ``text``: prompt and steps as one text, tokenized as a whole; read at the step ends.
            ``chat``: the chat template, with the steps in one assistant turn; read at step ends.
            ``turns``: a user turn for each step, the first with the prompt before it, which the
            assistant answers with the step end; read where the answer is predicted.
            ``prm-chat``, ``prm-plain``, ``prm-guide``: as this project encodes (`Encoder`).
        head: ``linear``: tensors ``score.weight`` and, if there, ``score.bias``; of two rows the
            softmax, of one the sigmoid. ``two_layer``: ``score.0``, ReLU, ``score.2``.
            ``value``: ``v_head.summary``, or ``v_head``; the sigmoid. ``lm``: the softmax over two
            tokens of the LM head.
        step_end: text after every step; of ``turns`` the assistant's answer.
        prompt: the text before the first step, with ``{problem}`` in it.
        step: with ``{step}``, and ``{number}`` from 1; a step that begins so already stays as it
            is.
        between: text between a step end and the next step (layout ``text``).
        system: system message of a chat; empty for none.
        right: text whose last token means a correct step (head ``lm``).
        wrong: text whose last token means a wrong step.
        correct_label: row of the correct class in a head of two rows; None looks at the names that
            the model gives them (`find_correct_label`).
        revision: branch, tag or commit on the Hub.
        dtype: of the computation; ``auto`` is bfloat16 where the GPU or processor multiplies in it.
        aggregation: how to make one score of a solution out of those of its steps.
        threshold: in [0, 1]; a step whose P(correct) is below it is flagged.
    """

    model: str
    layout: Layout
    head: HeadLayout
    step_end: str
    prompt: str = "{problem}"
    step: str = "{step}"
    between: str = ""
    system: str = ""
    right: str = "+"
    wrong: str = "-"
    correct_label: Literal[0, 1] | None = None
    revision: str | None = None
    dtype: AnyDtype = "auto"
    aggregation: Aggregation = "min"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"scorer: threshold of {self.model!r} is {self.threshold}, expected one in [0, 1]."
            )
        for name, mark in (("prompt", "{problem}"), ("step", "{step}")):
            if mark not in getattr(self, name):
                raise ValueError(
                    f"scorer: {name} of {self.model!r} is {getattr(self, name)!r}, expected a text "
                    f"with {mark} in it."
                )


# Each as its authors publish it; see docs/scoring.md for the sources.
_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
_LM = {"head": "lm", "prompt": "{problem} "}
_NUMBERED = {"step": "Step {number}: {step}", "step_end": " ки", "between": "\n"}
_PLUS = {"right": " +", "wrong": " -", "step_end": " \n\n\n\n\n"}
_EXTRA = {"step_end": "<extra_0>", "system": _SYSTEM}
FAMILIES: dict[str, dict[str, Any]] = {
    "trl": {"layout": "pieces", "head": "linear", "step_end": "\n"},
    "qwen-math-prm": {"layout": "chat", "head": "two_layer", **_EXTRA},
    "math-shepherd": {"layout": "text", **_LM, **_NUMBERED},
    "openr": {"layout": "text", **_LM, **_PLUS},
    "rlhflow": {"layout": "turns", **_LM, "step_end": "+", "aggregation": "mean"},
    "skywork": {"layout": "pieces", "head": "value", "prompt": "{problem}\n", "step_end": "\n"},
}
_OF_H4 = FAMILIES["trl"] | {"step_end": "\n\n"}
KNOWN: dict[str, dict[str, Any]] = {  # by id
    "HuggingFaceH4/Qwen2.5-Math-1.5B-Instruct-PRM-0.2": _OF_H4,
    "HuggingFaceH4/Qwen2.5-Math-7B-Instruct-PRM-0.2": _OF_H4,
    "Qwen/Qwen2.5-Math-PRM-7B": FAMILIES["qwen-math-prm"],
    "Qwen/Qwen2.5-Math-PRM-72B": FAMILIES["qwen-math-prm"],
    "Qwen/Qwen2.5-Math-7B-PRM800K": FAMILIES["qwen-math-prm"],
    "peiyi9979/math-shepherd-mistral-7b-prm": FAMILIES["math-shepherd"],
    "openreasoner/Math-psa": FAMILIES["openr"],
    "RLHFlow/Llama3.1-8B-PRM-Mistral-Data": FAMILIES["rlhflow"],
    "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data": FAMILIES["rlhflow"],
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B": FAMILIES["skywork"],
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B": FAMILIES["skywork"],
}


# How models name the rows of a head of two labels, in capitals.
RIGHT_NAMES = ("CORRECT", "RIGHT", "GOOD", "+", "TRUE", "POSITIVE", "YES", "1", "LABEL_1")
WRONG_NAMES = ("INCORRECT", "WRONG", "BAD", "-", "FALSE", "NEGATIVE", "NO", "0", "LABEL_0")


def read_public_manifest(file: Path) -> PublicManifest:
    """A manifest that a user wrote: YAML or JSON with the fields of `PublicManifest`.

    ``like`` names one of `FAMILIES` whose fields it starts from. A relative ``model`` is looked for
    next to the file first.

    Raises:
        ValueError: it cannot be read, or a field is missing, unknown or wrong.
    """
    import yaml

    try:
        record = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())
        raise ValueError(f"scorer: cannot read the manifest {file}: {first}.") from error
    if not isinstance(record, dict) or not isinstance(record.get("model"), str):
        raise ValueError(
            f"scorer: {file} is no manifest: expected fields, `model` (a folder or Hub id) among "
            "them. docs/scoring.md shows one."
        )
    family = record.pop("like", None)
    if family is not None and family not in FAMILIES:
        raise ValueError(f"scorer: like: {family!r} in {file} is none of {', '.join(FAMILIES)}.")
    next_to_it = file.parent / record["model"]
    if next_to_it.is_dir():
        record["model"] = str(next_to_it)
    values = FAMILIES.get(str(family), {}) | record
    return checked_fields(PublicManifest, values, f"scorer: the manifest {file}")


def recognise(model: str, folder: Path, tensors: set[str]) -> PublicManifest:
    """What is known of a model by its id, a manifest in its folder, its tensors or architecture.

    Raises:
        ValueError: nothing tells how to score with it.
    """
    if (folder / MANIFEST_FILE).is_file():
        return replace(read_public_manifest(folder / MANIFEST_FILE), model=str(folder))
    known = {name.lower(): record for name, record in KNOWN.items()}
    if model.lower() in known:
        return PublicManifest(model, **known[model.lower()])
    found = read_config(folder).get("architectures")
    architecture = str(found[0]) if isinstance(found, list) and found else "unknown"
    if any(name.startswith("v_head.") for name in tensors):
        return PublicManifest(model, **FAMILIES["skywork"])
    if {"score.0.weight", "score.2.weight"} <= tensors:
        return PublicManifest(model, **FAMILIES["qwen-math-prm"])
    if architecture.endswith("ForTokenClassification"):
        return PublicManifest(model, **FAMILIES["trl"])
    raise ValueError(
        f"scorer: {model!r} is a {architecture} and nothing in it says how it scores steps. Write "
        f"a manifest, a YAML file such as `{{model: {model}, like: math-shepherd}}` (like: one of "
        f"{', '.join(FAMILIES)}; fields: docs/scoring.md), and give it in place of the model."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a checkpoint or of a PEFT adapter.

    Raises:
        ValueError: there is none, or it is no JSON object.
    """
    for name in ("config.json", "adapter_config.json"):
        if (folder / name).is_file():
            try:
                record = json.loads((folder / name).read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"scorer: cannot read {folder / name}: {error}.") from error
            if not isinstance(record, dict):
                raise ValueError(f"scorer: {folder / name} holds no JSON object.")
            return record
    raise ValueError(
        f"scorer: {folder} holds neither prm.json nor config.json, so it is no model. Give a "
        "folder such as outputs/quickstart/best_model, a Hub id, a manifest file or a server's URL."
    )


def find_correct_label(manifest: PublicManifest, config: dict[str, Any]) -> Literal[0, 1]:
    """The row of the correct class: what the manifest says, or else ``id2label`` or ``label2id``.

    Raises:
        ValueError: the rows have names that do not tell which is which.
    """
    named, numbers = config.get("id2label"), config.get("label2id")
    if manifest.head not in ("linear", "two_layer"):
        return 1
    if manifest.correct_label is not None:
        return manifest.correct_label
    if not named and not numbers:
        return 1
    try:
        by_name = {int(row): str(name).upper() for name, row in (numbers or {}).items()}
        by_row = {int(row): str(name).upper() for row, name in (named or by_name).items()}
    except (AttributeError, TypeError, ValueError):
        by_name = by_row = {}
    rows = [by_row[row] for row in sorted(by_row)]
    kinds = [(name in RIGHT_NAMES) - (name in WRONG_NAMES) for name in rows]
    if rows == ["LABEL_0"] or kinds in ([1], [-1, 1], [0, 1], [-1, 0]):
        return 1
    if kinds in ([1, -1], [1, 0], [0, -1]):
        return 0
    raise ValueError(
        f"scorer: the rows of the head of {manifest.model!r} are named {rows}, which does not "
        "tell which of them means a correct step. Say it by correct_label (0 or 1) in a manifest, "
        f"such as {{model: {manifest.model}, like: trl, correct_label: 1}}."
    )
