"""The layouts that a merged process reward model is written in."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prm_lightning.modeling.heads import LABELS, StepHead
from prm_lightning.modeling.prm import PRM

Format = Literal[
    "token-classification", "sequence-classification", "qwen-prm", "causal-lm", "adapter"
]
Labels = Literal["INCORRECT/CORRECT", "LABEL_0/LABEL_1"]

# SGLang 0.5 builds the heads of these with a bias, at random where the checkpoint has none.
BIASED_IN_SGLANG = ("qwen2", "qwen3")
ADAPTER_PREFIX = "base_model.model.score"


def label_rows(head: StepHead) -> Tensor:
    """``(2, H)`` float32 rows for INCORRECT and CORRECT, whose softmax is the head's sigmoid.

    They are those of the last layer. A head of one row w becomes the rows 0 and w, since
    softmax([0, x]) = sigmoid(x).
    """
    weight = head.weight.detach().float().cpu()
    return weight if len(weight) == 2 else torch.cat([torch.zeros_like(weight), weight])


def label_biases(head: StepHead) -> Tensor | None:
    """``(2,)`` float32 that go with `label_rows`; None where the head has no bias."""
    if head.bias is None:
        return None
    bias = head.bias.detach().float().cpu()
    return bias if len(bias) == 2 else torch.cat([torch.zeros_like(bias), bias])


def require_layout(prm: PRM, format: Format) -> None:
    """Refuse a format that cannot hold a model, before work is done.

    Raises:
        ValueError: it cannot.
    """
    config = prm.manifest.backbone
    lm = prm.backbone.causal_lm
    reason, instead = "", "token-classification"
    if prm.head.inner is not None:
        instead = "qwen-prm"
        if lm.config.model_type != "qwen2":
            raise ValueError(
                "export: nothing holds a head of two layers on a backbone of type "
                f"{lm.config.model_type}; only Qwen2's have a class for one. Use the model as it "
                "is, or train with model.head scalar or classes."
            )
        if format != "qwen-prm":
            reason = "has no place for a head of two layers"
    elif format == "causal-lm" and prm.head.kind != "token":
        reason = f"needs a token head, this one is {prm.head.kind}"
    elif format == "qwen-prm" and lm.config.model_type != "qwen2":
        reason = f"holds Qwen2 and Qwen2.5 backbones, this one is {lm.config.model_type}"
    elif format == "adapter" and config.lora is None:
        reason = "needs LoRA adapters, this model was trained in full"
    elif format == "adapter" and config.name.endswith(".gguf"):
        reason = f"needs a base model that PEFT can load, this one is the GGUF file {config.name!r}"
    elif format in ("sequence-classification", "causal-lm") and prm.head.bias is not None:
        reason = "has no place for the bias that this head was imported with (import --bias drop)"
    if reason:
        raise ValueError(f"export: the format {format} {reason}. Take --format {instead}.")
    if format in ("token-classification", "sequence-classification"):
        classifier_class(lm, format)


def classifier_class(lm: Any, format: Format) -> type:
    """The class of transformers that holds a language model with a linear `score`.

    Raises:
        ValueError: transformers has none for this architecture.
    """
    from transformers.models.auto import modeling_auto as auto

    sequence = format == "sequence-classification"
    kind = "sequence" if sequence else "token"
    mapping = (
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        if sequence
        else auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    )
    found: Any = mapping.get(type(lm.config), None)
    if found is not None:
        with torch.device("meta"):
            empty = found(lm.config)
        inner = getattr(empty, empty.base_model_prefix, None)
        if isinstance(getattr(empty, "score", None), nn.Linear) and type(inner) is type(
            lm.base_model
        ):
            return found  # type: ignore[no-any-return]
    raise ValueError(
        f"export: transformers has no {kind} classification class with a linear `score` for "
        f"{type(lm).__name__}. Take --format causal-lm for a token head, or another base model."
    )


def write_classifier(
    lm: Any, head: StepHead, folder: Path, format: Format, labels: Labels, record: Mapping[str, Any]
) -> None:
    """Write ``<Arch>ForTokenClassification`` or ``<Arch>ForSequenceClassification``.

    Args:
        lm: the merged language model, whose dtype all tensors get.
        head: its rows become `label_rows`, its bias `label_biases`.
        folder: to write into.
        format: one of the two.
        labels: names of the two.
        record: goes into config.json as ``prm``.
    """
    target = _around(lm, classifier_class(lm, format), labels, record)
    bias = label_biases(head)
    if format == "sequence-classification" and lm.config.model_type in BIASED_IN_SGLANG:
        bias = torch.zeros(2)
    target.config.token_classification_bias = bias is not None
    target.score = _linear(label_rows(head), bias)
    target.to(lm.dtype).save_pretrained(folder)


def write_qwen_prm(
    lm: Any, head: StepHead, folder: Path, labels: Labels, record: Mapping[str, Any]
) -> None:
    """Write ``Qwen2ForProcessRewardModel``: two layers with a ReLU.

    They are those of a head of two layers; or else they say what one row says. With the row u for
    the log-odds and a bias b, which may be 0, the first layer computes u·h + b and -u·h - b and
    the second takes their difference: relu(x) - relu(-x) = x.
    """
    target = _around(lm, classifier_class(lm, "token-classification"), labels, record)
    target.score = _two_layers(head)
    target.to(lm.dtype).save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = ["Qwen2ForProcessRewardModel"]
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_causal_lm(
    lm: Any,
    head: StepHead,
    verdicts: tuple[int, int],
    folder: Path,
    record: Mapping[str, Any],
) -> None:
    """Write a language model two of whose LM-head rows are the verdict.

    The rows of the tokens for wrong and right become m - v/2 and m + v/2, with their mean m and
    the head's vector v, so that P(correct) is the softmax of their two logits. The LM head is
    untied from the embeddings.
    """
    vector = head.weight.detach().float().cpu()[0]
    weight = lm.get_output_embeddings().weight.detach().clone()
    wrong, right = verdicts
    middle = (weight[wrong].float() + weight[right].float()).cpu() / 2
    weight[wrong], weight[right] = middle - vector / 2, middle + vector / 2
    config = copy.deepcopy(lm.config)
    config.tie_word_embeddings = False
    config.prm = dict(record)
    with torch.device("meta"):
        target = type(lm)(config)
    setattr(target, target.base_model_prefix, lm.base_model)
    output = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    output.weight = nn.Parameter(weight)
    if lm.get_output_embeddings().bias is not None:
        output.bias = nn.Parameter(lm.get_output_embeddings().bias.detach().clone())
    target.set_output_embeddings(output)
    target.generation_config = copy.deepcopy(lm.generation_config)
    target.save_pretrained(folder)


def write_adapter(
    model: Path, head: StepHead, folder: Path, base: str, revision: str | None
) -> None:
    """Write a PEFT folder whose adapters are those of a model folder, with the head among them.

    Args:
        model: of ours, with adapters.
        head: its rows become `label_rows`, its bias `label_biases`.
        folder: to write into.
        base: Hub id or folder of the base model.
        revision: of the base model.
    """
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "adapter_model.safetensors")
    tensors[f"{ADAPTER_PREFIX}.weight"] = label_rows(head).contiguous()
    bias = label_biases(head)  # the classes of transformers have one
    tensors[f"{ADAPTER_PREFIX}.bias"] = torch.zeros(2) if bias is None else bias
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = json.loads((model / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {
        "base_model_name_or_path": base,
        "revision": revision,
        "task_type": "TOKEN_CLS",
        "modules_to_save": ["score"],
        "inference_mode": True,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def label_names(labels: Labels) -> tuple[str, str]:
    """Names of the labels 0 and 1."""
    return LABELS if labels == "INCORRECT/CORRECT" else ("LABEL_0", "LABEL_1")


def _around(lm: Any, cls: Any, labels: Labels, record: Mapping[str, Any]) -> Any:
    """A classifier whose inner model is that of a language model and whose head is empty."""
    config = copy.deepcopy(lm.config)
    config.id2label = dict(enumerate(label_names(labels)))
    config.label2id = {name: i for i, name in config.id2label.items()}
    config.classifier_dropout = 0.0
    config.prm = dict(record)
    if config.pad_token_id in (record["step_end_id"], *record["branch"][-1:]):
        config.pad_token_id = None  # readers of the last token pass padding by
    with torch.device("meta"):
        target = cls(config)
    setattr(target, target.base_model_prefix, lm.base_model)
    return target


def _two_layers(head: StepHead) -> nn.Sequential:
    rows, biases = label_rows(head), label_biases(head)
    biases = torch.zeros(2) if biases is None else biases
    if head.inner is not None:
        inner = (tensor.detach().float().cpu() for tensor in (head.inner.weight, head.inner.bias))
        return nn.Sequential(_linear(*inner), nn.ReLU(), _linear(rows, biases))
    size = rows.shape[1]
    direction = rows[1] - rows[0]
    first, second, offset = torch.zeros(size, size), torch.zeros(2, size), torch.zeros(size)
    first[0], first[1] = direction, -direction
    offset[0], offset[1] = biases[1] - biases[0], biases[0] - biases[1]
    second[1, 0], second[1, 1] = 1, -1
    return nn.Sequential(_linear(first, offset), nn.ReLU(), _linear(second, torch.zeros(2)))


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer
