"""One language model out of a base, quantized or not, and its adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from prm_lightning.modeling.backbone import TreeModel, load_backbone
from prm_lightning.modeling.prm import PRM

ExportDtype = Literal["bf16", "fp32"]
MergeInto = Literal["dequantized", "original"]
TORCH_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def is_exact(prm: PRM, dtype: ExportDtype) -> bool:
    """Whether an export may differ from the model by no more than the order of additions."""
    return dtype == "fp32" and prm.manifest.backbone.quantize == "none"


def compute_in_float32(prm: PRM) -> None:
    """Let a model that is not quantized compute in float32, with the weights that it has."""
    prm.float()
    backbone = prm.backbone
    backbone.config = replace(backbone.config, dtype="float32")


def merge(prm: PRM, folder: Path, into: MergeInto, dtype: ExportDtype) -> Any:
    """The language model with its adapters added to its weights.

    A quantized base is dequantized first and the adapters are added then: adding them inside 4
    bits rounds them away, and the original weights are not those that the adapters were trained
    on. The adapters are added in the base's dtype or a wider one, and the sum is rounded once.

    Args:
        prm: loaded from `folder`; it cannot score any more afterwards.
        folder: with the adapters.
        into: ``dequantized``, or ``original``: the weights as they were before quantization.
        dtype: of the result.

    Returns:
        A `transformers` causal language model without adapters and quantization, on the CPU.
    """
    config = prm.manifest.backbone
    if config.lora is None:
        return prm.backbone.model.to("cpu", TORCH_DTYPES[dtype])
    if config.quantize == "none":
        lm = prm.backbone.model
    elif into == "original":
        lm = load_backbone(replace(config, quantize="none"), saved=folder).model
    else:
        lm = _dequantize(prm.backbone, folder)
    if dtype == "fp32":
        lm = lm.float()
    return lm.merge_and_unload().to("cpu", TORCH_DTYPES[dtype])


def _dequantize(backbone: TreeModel, folder: Path) -> Any:
    """The same base in ordinary weights, with the adapters attached anew."""
    from peft import PeftModel

    return PeftModel.from_pretrained(backbone.model.unload().dequantize(), folder)
