"""The formats of an export: weights merged into one model, and how each format is written."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prm_lightning.interop import DTYPES, ExportOptions, Format
from prm_lightning.modeling.backbone import load_backbone
from prm_lightning.modeling.heads import StepHead
from prm_lightning.modeling.model_folder import ADAPTER_CONFIG, ADAPTER_FILE
from prm_lightning.modeling.prm import PRM

# SGLang 0.5 builds the heads of these with a bias, at random where the checkpoint has none.
BIASED_IN_SGLANG = ("qwen2", "qwen3")
ADAPTER_PREFIX = "base_model.model.score"


def require_format(prm: PRM, format: Format) -> None:
    """Refuse a format that cannot hold a model, before work is done."""
    config = prm.manifest.backbone
    kind = prm.backbone.causal_lm.config.model_type
    reason, instead = "", "token-classification"
    if prm.head.inner is not None:
        instead = "qwen-prm"
        if kind != "qwen2":
            raise ValueError(
                f"export: nothing holds a head of two layers on a backbone of type {kind}; only "
                "Qwen2's have a class for one. Use the model as it is, or train with model.head "
                "scalar or classes."
            )
        if format != "qwen-prm":
            reason = "has no place for a head of two layers"
    elif format == "causal-lm" and prm.head.kind != "token":
        reason = f"needs a token head, this one is {prm.head.kind}"
    elif format == "qwen-prm" and kind != "qwen2":
        reason = f"holds Qwen2 and Qwen2.5 backbones, this one is {kind}"
    elif format == "adapter" and config.lora is None:
        reason = "needs LoRA adapters, this model was trained in full"
    elif format == "adapter" and config.name.endswith(".gguf"):
        reason = f"needs a base model that PEFT can load, this one is the GGUF file {config.name!r}"
    elif format in ("sequence-classification", "causal-lm") and prm.head.bias is not None:
        reason = "has no place for the bias of this head (import --bias drop makes one without)"
    if reason:
        raise ValueError(f"export: the format {format} {reason}. Take --format {instead}.")
    if format in ("token-classification", "sequence-classification"):
        _classifier_class(prm.backbone.causal_lm, format)


def compute_in_float32(prm: PRM) -> None:
    """Let a model that is not quantized compute in float32, with the weights that it has."""
    prm.float()
    prm.backbone.config = replace(prm.backbone.config, dtype="float32")


def write_weights(
    prm: PRM, place: Path, folder: Path, options: ExportOptions, record: Mapping[str, Any]
) -> None:
    """Write the weights and the configuration of one format that can hold them.

    The model, loaded from `place`, cannot score any more afterwards. `record` says how text becomes
    ids, and goes into config.json as ``prm``.
    """
    format = options.format
    if format == "adapter":
        _write_adapter(place, prm.head, folder)
        return
    lm = merge(prm, place, options)
    if format == "causal-lm":
        target = _with_verdict_rows(lm, prm.head, record)
    else:
        target = _classifier(lm, format, options.labels, record)
        rows, bias = label_rows(prm.head)
        if format == "qwen-prm":
            target.score = _two_layers(prm.head, rows, torch.zeros(2) if bias is None else bias)
        else:
            if format == "sequence-classification" and lm.config.model_type in BIASED_IN_SGLANG:
                bias = torch.zeros(2)
            target.config.token_classification_bias = bias is not None
            target.score = _linear(rows, bias)
        target = target.to(lm.dtype)
    target.save_pretrained(folder)
    if format == "qwen-prm":
        _edit_json(folder / "config.json", {"architectures": ["Qwen2ForProcessRewardModel"]})


def merge(prm: PRM, place: Path, options: ExportOptions) -> Any:
    """The language model with its adapters added to its weights.

    A quantized base is dequantized first and the adapters are added then: adding them inside 4
    bits rounds them away, and the original weights are not those that the adapters were trained
    on. The adapters, which are in `place`, are added in the base's dtype or a wider one, and the
    sum is rounded once.

    Returns:
        A `transformers` causal language model without adapters and quantization, on the CPU.
    """
    from peft import PeftModel

    config, dtype = prm.manifest.backbone, getattr(torch, DTYPES[options.dtype])
    lm = prm.backbone.model
    if config.lora is None:
        return lm.to("cpu", dtype)
    if config.quantize != "none" and options.merge_into == "original":
        lm = load_backbone(replace(config, quantize="none"), saved=place).model
    elif config.quantize != "none":
        lm = PeftModel.from_pretrained(lm.unload().dequantize(), place)
    if options.dtype == "fp32":
        lm = lm.float()
    return lm.merge_and_unload().to("cpu", dtype)


def wrap(inner: Any, cls: Any, config: Any) -> Any:
    """An empty model of some class around the inner model of another one."""
    with torch.device("meta"):
        outer = cls(config)
    setattr(outer, outer.base_model_prefix, inner)
    return outer


def _two_layers(head: StepHead, rows: Tensor, bias: Tensor) -> nn.Module:
    """The two layers with a ReLU of ``Qwen2ForProcessRewardModel``.

    They are those of a head of two layers; or else they say what one row says. With the row u for
    the log-odds and a bias b, which may be 0, the first layer computes u·h + b and -u·h - b and
    the second takes their difference: relu(x) - relu(-x) = x.
    """
    if head.inner is not None:
        first, second = _linear(head.inner.weight, head.inner.bias), _linear(rows, bias)
    else:
        size = rows.shape[1]
        weight, offset = torch.zeros(size, size), torch.zeros(size)
        weight[0], weight[1] = rows[1] - rows[0], rows[0] - rows[1]
        offset[0], offset[1] = bias[1] - bias[0], bias[0] - bias[1]
        difference = torch.zeros(2, size)
        difference[1, 0], difference[1, 1] = 1, -1
        first, second = _linear(weight, offset), _linear(difference, torch.zeros(2))
    return nn.Sequential(first, nn.ReLU(), second)


def _with_verdict_rows(lm: Any, head: StepHead, record: Mapping[str, Any]) -> Any:
    """A language model two of whose LM-head rows are the verdict.

    The rows of the tokens for wrong and right become m - v/2 and m + v/2, with their mean m and
    the head's vector v, so that P(correct) is the softmax of their two logits. The LM head is
    untied from the embeddings.
    """
    vector = head.weight.detach().float().cpu()[0]
    old = lm.get_output_embeddings()
    weight = old.weight.detach().clone()
    wrong, right = record["verdicts"]
    middle = (weight[wrong].float() + weight[right].float()).cpu() / 2
    weight[wrong], weight[right] = middle - vector / 2, middle + vector / 2
    config = copy.deepcopy(lm.config)
    config.tie_word_embeddings = False
    config.prm = dict(record)
    target = wrap(lm.base_model, type(lm), config)
    output = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    output.weight = nn.Parameter(weight)
    if old.bias is not None:
        output.bias = nn.Parameter(old.bias.detach().clone())
    target.set_output_embeddings(output)
    target.generation_config = copy.deepcopy(lm.generation_config)
    return target


def _write_adapter(model: Path, head: StepHead, folder: Path) -> None:
    """Write a PEFT folder whose adapters are those of a model folder, with the head among them."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / ADAPTER_FILE)
    rows, bias = label_rows(head)
    tensors[f"{ADAPTER_PREFIX}.weight"] = rows.contiguous()
    # The classes of transformers have a bias.
    tensors[f"{ADAPTER_PREFIX}.bias"] = torch.zeros(2) if bias is None else bias
    save_file(tensors, folder / ADAPTER_FILE, {"format": "pt"})
    shutil.copyfile(model / ADAPTER_CONFIG, folder / ADAPTER_CONFIG)
    changes = {"task_type": "TOKEN_CLS", "modules_to_save": ["score"], "inference_mode": True}
    _edit_json(folder / ADAPTER_CONFIG, changes)


def label_rows(head: StepHead) -> tuple[Tensor, Tensor | None]:
    """``(2, H)`` rows for INCORRECT and CORRECT, whose softmax is the head's sigmoid.

    They are those of the last layer. A head of one row w becomes the rows 0 and w, since
    softmax([0, x]) = sigmoid(x).

    Returns:
        The rows and their ``(2,)`` biases, None where the head has none; float32, on the CPU.
    """

    def two(values: Tensor) -> Tensor:
        values = values.detach().float().cpu()
        return values if len(values) == 2 else torch.cat([torch.zeros_like(values), values])

    return two(head.weight), None if head.bias is None else two(head.bias)


def _classifier_class(lm: Any, format: Format) -> Any:
    """The class of transformers that holds a language model with a linear `score`."""
    from transformers.models.auto import modeling_auto as auto

    kind, classes = "token", auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    if format == "sequence-classification":
        kind, classes = "sequence", auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    found: Any = classes.get(type(lm.config), None)
    if found is not None:
        with torch.device("meta"):
            empty = found(lm.config)
        inner = getattr(empty, empty.base_model_prefix, None)
        is_linear = isinstance(getattr(empty, "score", None), nn.Linear)
        if is_linear and type(inner) is type(lm.base_model):
            return found
    raise ValueError(
        f"export: transformers has no {kind} classification class with a linear `score` for "
        f"{type(lm).__name__}. Take --format causal-lm for a token head, or another base model."
    )


def _classifier(lm: Any, format: Format, labels: str, record: Mapping[str, Any]) -> Any:
    """A classifier whose inner model is that of a language model and whose head is empty."""
    config = copy.deepcopy(lm.config)
    config.id2label = dict(enumerate(labels.split("/")))
    config.label2id = {name: i for i, name in config.id2label.items()}
    config.classifier_dropout = 0.0
    config.prm = dict(record)
    if config.pad_token_id in (record["step_end_id"], *record["branch"][-1:]):
        config.pad_token_id = None  # readers of the last token skip padding
    return wrap(lm.base_model, _classifier_class(lm, format), config)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().float().cpu().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().float().cpu().clone())
    return layer


def _edit_json(path: Path, changes: Mapping[str, Any]) -> None:
    record = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
