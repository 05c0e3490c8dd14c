"""The lines of a model card that score with plain transformers; each export runs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prm_lightning.interop.export_formats import Format
from prm_lightning.interop.merging import ExportDtype
from prm_lightning.modeling.prm import PRM


@dataclass(frozen=True)
class Encoding:
    """How the ids of a solution are built, for readers without this project.

    ``before + ids(problem) + after``, then for every step ``ids(step) + [step_end_id]``; a score
    is read at the last id of that and ``branch``.

    Args:
        before: ids in front of the problem.
        after: ids between the problem and the first step.
        step_end: the string whose one token ends a step.
        step_end_id: that token's id.
        branch: ids behind a step end that ask for the verdict; empty where the step end is read.
        verdicts: of a token head, ids of the tokens for wrong and right; else None.
    """

    before: list[int]
    after: list[int]
    step_end: str
    step_end_id: int
    branch: list[int]
    verdicts: tuple[int, int] | None = None


def read_encoding(prm: PRM, verdicts: tuple[int, int] | None) -> Encoding:
    """How a model encodes, seen from what it makes of two problems of one letter."""
    encoder = prm.encoder
    a, b = (list(encoder.encode(letter, ["x"]).input_ids) for letter in "ab")
    (step,) = encoder.tokenizer(["x"], add_special_tokens=False)["input_ids"]
    behind = [*step, encoder.step_end_id]
    a, b = a[: -len(behind)], b[: -len(behind)]
    return Encoding(
        before=shared_beginning(a, b),
        after=shared_beginning(a[::-1], b[::-1])[::-1],
        step_end=encoder.step_end,
        step_end_id=encoder.step_end_id,
        branch=list(encoder.branch),
        verdicts=verdicts,
    )


def scoring_code(
    folder: str, format: Format, prm: PRM, encoding: Encoding, dtype: ExportDtype
) -> str:
    """Python that scores with an exported folder and knows nothing of this project.

    It defines ``tokenizer``, ``model`` and ``score(problem, steps)``, which gives P(correct) of
    every step.

    Args:
        folder: as it stands in the code.
        format: of the folder.
        prm: that was exported.
        encoding: of its text.
        dtype: that an adapter's base model is loaded in.
    """
    imports, loading, read = _loading(format, prm, encoding, dtype)
    whole = format != "sequence-classification" and not encoding.branch
    decode = prm.encoder.tokenizer.decode
    shown = json.dumps(decode(encoding.before) + "{problem}" + decode(encoding.after))
    return "\n".join(
        [
            *imports,
            "",
            f"folder = {json.dumps(folder)}",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            *loading,
            f"before, after = {encoding.before}, {encoding.after}  # the ids of {shown}",
            f"end = {encoding.step_end_id}  # the id of {json.dumps(encoding.step_end)}",
            "",
            "",
            *_tokens(encoding.step_end),
            "",
            "",
            *(_score_whole(read) if whole else _score_prefixes(read, format, encoding)),
        ]
    )


def _tokens(step_end: str) -> list[str]:
    """A function that reads user text as `Encoder` does."""
    return [
        "def tokens(text):  # blank lines and step ends inside a text are taken out",
        '    text = re.sub(r"\\r\\n?", "\\n", text.strip())',
        '    text = re.sub(r"\\n(?:[^\\S\\n]*\\n)+", "\\n", text)',
        f'    for text in (text, text.replace({json.dumps(step_end)}, " ")):',
        "        options = dict(add_special_tokens=False, split_special_tokens=True)",
        "        ids = tokenizer(text, **options).input_ids",
        "        if end not in ids:",
        "            break",
        "    return ids",
    ]


def _score_whole(read: str) -> list[str]:
    return [
        "def score(problem, steps):",
        "    ids, ends = before + tokens(problem) + after, []",
        "    for step in steps:",
        "        ids = ids + tokens(step) + [end]",
        "        ends.append(len(ids) - 1)",
        "    with torch.no_grad():",
        "        x = torch.tensor([ids], device=model.device)",
        f"        logits = {read.format(places='ends')}",
        "    return logits.float().softmax(-1)[:, 1].tolist()",
    ]


def _score_prefixes(read: str, format: Format, encoding: Encoding) -> list[str]:
    branch = f" + {encoding.branch}" if encoding.branch else ""
    return [
        "def score(problem, steps):",
        "    ids, scores = before + tokens(problem) + after, []",
        "    for step in steps:  # a score is read at the last token",
        "        ids = ids + tokens(step) + [end]",
        "        with torch.no_grad():",
        f"            x = torch.tensor([ids{branch}], device=model.device)",
        f"            logits = {read.format(places='[-1]')}",
        "        scores.append(logits.float().softmax(-1)[0, 1].item())",
        "    return scores",
    ]


def _loading(
    format: Format, prm: PRM, encoding: Encoding, dtype: ExportDtype
) -> tuple[list[str], list[str], str]:
    """Imports, lines that load, and an expression for the logits of x at some places."""
    plain = ["import re", "", "import torch"]
    auto = {
        "token-classification": "AutoModelForTokenClassification",
        "sequence-classification": "AutoModelForSequenceClassification",
        "causal-lm": "AutoModelForCausalLM",
        "qwen-prm": "AutoModel",
        "adapter": "AutoModelForTokenClassification",
    }[format]
    load = [f'model = {auto}.from_pretrained(folder, dtype="auto").eval()']
    if format == "adapter":
        return _adapter_loading(prm, dtype)
    if format == "qwen-prm":
        imports = ["import re", "from pathlib import Path", "", "import torch"]
        imports += ["from safetensors.torch import load_file"]
        load += [
            'files = [load_file(file) for file in Path(folder).glob("*.safetensors")]',
            "weights = {k: v for file in files for k, v in file.items()}",
            'weights = {k[6:]: v for k, v in weights.items() if k.startswith("score.")}',
            "h, linear = model.config.hidden_size, torch.nn.Linear",
            "model.score = torch.nn.Sequential(linear(h, h), torch.nn.ReLU(), linear(h, 2))",
            "model.score.load_state_dict(weights)",
            "model.score.to(model.dtype)",
        ]
        imports += ["from transformers import AutoModel, AutoTokenizer"]
        return imports, load, "model.score(model(x).last_hidden_state[0, {places}])"
    imports = [*plain, f"from transformers import {auto}, AutoTokenizer"]
    if format == "sequence-classification":
        return imports, load, "model(x).logits"
    if format == "causal-lm":
        assert encoding.verdicts is not None
        wrong, right = encoding.verdicts
        return imports, load, f"model(x).logits[0, {{places}}][:, [{wrong}, {right}]]"
    return imports, load, "model(x).logits[0, {places}]"


def _adapter_loading(prm: PRM, dtype: ExportDtype) -> tuple[list[str], list[str], str]:
    config = prm.manifest.backbone.settled()
    torch_dtype = {"bf16": "torch.bfloat16", "fp32": "torch.float32"}[dtype]
    names = ["AutoModelForTokenClassification", "AutoTokenizer"]
    options = [f"num_labels=2, dtype={torch_dtype}"]
    lines = []
    if config.quantize != "none":
        names.append("BitsAndBytesConfig")
        skipped = 'llm_int8_skip_modules=["score"]'
        how = {
            "nf4": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
            f"bnb_4bit_compute_dtype=torch.{config.dtype}, ",
            "int8": "load_in_8bit=True, ",
        }[config.quantize]
        lines.append(f"quantization = BitsAndBytesConfig({how}{skipped})")
        options.append("quantization_config=quantization")
    if config.revision is not None:
        options.append(f"revision={json.dumps(config.revision)}")
    lines += [
        "base = AutoModelForTokenClassification.from_pretrained(",
        f"    {json.dumps(config.name)}, {', '.join(options)}",
        ")",
        "model = PeftModel.from_pretrained(base, folder).eval()",
    ]
    imports = ["import re", "", "import torch", "from peft import PeftModel"]
    imports.append(f"from transformers import {', '.join(sorted(names))}")
    return imports, lines, "model(input_ids=x).logits[0, {places}]"


def shared_beginning(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """What two sequences have in common at their beginnings."""
    length = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    return list(a[:length])
