"""Commands that serve an exported model, each with a request."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prm_lightning.interop.card_code import Encoding
from prm_lightning.interop.export_formats import Format
from prm_lightning.modeling.prm import PRM

PER_STEP = "All steps of a solution at once (vLLM):"
GROWING = (
    "The last step of a solution that is being written, with the prefix cache (vLLM); `probs[1]` "
    "is P(correct):"
)


@dataclass(frozen=True)
class Served:
    """What is served.

    Args:
        format: of the export.
        folder: of the export, as it stands in commands.
        prm: that was exported.
        encoding: of its text.
        ids: of a solution, up to where its last score is read.
    """

    format: Format
    folder: str
    prm: PRM
    encoding: Encoding
    ids: list[int]


def serve_commands(served: Served) -> str:
    """The section of a model card, in Markdown."""
    if served.format == "adapter":
        return _serve_adapter(served)
    per_step = [PER_STEP, _serve(served, _steps(served)), _request(served, "pooling")]
    per_step.append(_rows(served))
    growing = [GROWING, _serve(served, {"task": "classify"}), _request(served, "classify")]
    ends = "A server does one of the two. Send token ids, built as above: a server's own chat "
    ends += "template closes the turn."
    parts = {
        "token-classification": [*per_step, *growing, ends],
        "sequence-classification": [*growing, *per_step, ends, *_sglang(served)],
        "causal-lm": [*per_step, *growing, ends],
        "qwen-prm": per_step,
    }[served.format]
    return "\n\n".join(parts)


def _steps(served: Served) -> dict[str, Any]:
    """Settings of a server that reads every step."""
    step = {"tok_pooling_type": "STEP", "step_tag_id": served.encoding.step_end_id}
    task = {"task": "token_classify"}
    if served.encoding.branch:  # the step end is not where scores are read
        return task
    return step if served.format in ("token-classification", "qwen-prm") else task | step


def _rows(served: Served) -> str:
    row = "The answer has a row `[P(incorrect), P(correct)]` for every token"
    if served.encoding.branch:
        return (
            f"{row}; the score of a step is the last row of a request with the steps up to it and "
            f"the ids {served.encoding.branch} behind them."
        )
    return (
        f"{row} {served.encoding.step_end_id}; those of the steps are the last ones. The setting "
        "is the server's: in a request it is ignored."
    )


def _serve_adapter(served: Served) -> str:
    config = served.prm.manifest.backbone
    rank = 0 if config.lora is None else config.lora.r
    command = (
        f"    vllm serve {shlex.quote(config.name)} --runner pooling --convert classify "
        f"--enable-lora --max-lora-rank {rank} --lora-modules prm={shlex.quote(served.folder)}"
    )
    warning = (
        "A request that does not name the adapter is answered from an untrained head. All steps at "
        "once need merged weights (`--format token-classification`), and so do a base that was "
        "quantized in training and a trained step end."
    )
    return "\n\n".join([GROWING, command, _request(served, "classify", model="prm"), warning])


def _sglang(served: Served) -> list[str]:
    command = f"python -m sglang.launch_server --model-path {shlex.quote(served.folder)}"
    return [
        "The last step in SGLang (not run by this project):",
        f"    {command} --is-embedding --port 8000",
        _request(served, "classify"),
    ]


def _serve(served: Served, pooler: Mapping[str, Any]) -> str:
    command = f"    vllm serve {shlex.quote(served.folder)} --runner pooling"
    if served.format == "causal-lm":
        command += f" --hf-overrides {shlex.quote(json.dumps(_lm_overrides(served)))}"
    return f"{command} --pooler-config {shlex.quote(json.dumps(pooler))}"


def _request(served: Served, endpoint: str, **fields: str) -> str:
    body: dict[str, Any] = {**fields, "input": served.ids}
    if endpoint == "pooling":
        body["task"] = "token_classify"
    return (
        f"    curl http://localhost:8000/{endpoint} -H 'Content-Type: application/json' "
        f"-d {shlex.quote(json.dumps(body))}"
    )


def _lm_overrides(served: Served) -> dict[str, Any]:
    """What tells vLLM that two rows of the LM head are the classes."""
    architecture = type(served.prm.backbone.causal_lm).__name__.replace("CausalLM", "")
    tokenizer = served.prm.encoder.tokenizer
    return {
        "architectures": [f"{architecture}SequenceClassification"],
        "classifier_from_token": tokenizer.convert_ids_to_tokens(served.encoding.verdicts),
        "method": "no_post_processing",
    }
