"""Faster forward passes of decoder layers in training, taken only where their gradients are right.

In: a model, and which path is wanted. Out: the same model, some of whose modules compute their
forward pass in another way, and the name of that path. Next: `training/module.py`, which asks for
it when training begins.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from prm_lightning.batching.data import collate, encode_solutions, measure
from prm_lightning.batching.encode import Encoder
from prm_lightning.batching.plan import Planner
from prm_lightning.modeling.backbone import Kernels
from prm_lightning.modeling.cpu import DENSE
from prm_lightning.modeling.losses import reward_weighted_loss
from prm_lightning.modeling.step_model import NO_LIMIT, PAD_ID, StepModel
from prm_lightning.types import Solution, Step, StepBatch

Forwards = dict[nn.Module, Callable[..., Any]]

LIMITS = {"float32": 1e-4, "bfloat16": 0.02}  # most that gradients may differ, over their norm
RECOMPILES = 64  # shapes and modes of one layer; at 8, PyTorch's own, it runs uncompiled after them
NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")  # alike in all but name


def use_kernels(model: StepModel, wanted: Kernels) -> Kernels:
    """Let a model train by a faster path, if its gradients on a small batch are those of the plain.

    The model is on the device that it is trained on, in training mode and without gradients.
    Returns the path that it takes from now on. If it is not the one wanted (see `Backbone`), a
    warning has said why; a ValueError says that `liger` is wanted where it cannot run.
    """
    device = model.backbone.device.type
    has_liger = device == "cuda" and find_spec("liger_kernel") is not None
    if wanted == "liger" and not has_liger:
        raise ValueError(
            "model.backbone.kernels is 'liger', which needs a CUDA device and the package "
            f"liger-kernel; the model is on {device}. Run pip install 'prm_lightning[gpu]', or set "
            "it to auto."
        )
    if wanted == "auto":
        wanted = "liger" if has_liger else "plain"
    if wanted == "plain":
        return "plain"
    model.backbone.compiled = wanted == "compiled"
    if switch(model, FASTER[wanted](model), wanted):
        return wanted
    model.backbone.compiled = False
    return "plain"


def switch(model: StepModel, forwards: Forwards, name: str) -> bool:
    """Replace forward passes of modules, if gradients agree within `LIMITS`.

    They are compared with those of the last layer alone replaced: layers are alike, and where all
    are replaced in bfloat16, roundings add up to 5 % in a right path of a model of 30 layers.
    Returns whether they are replaced; if not, a warning, which says `name`, has said why.
    """
    batch = small_batch(model)
    limit = LIMITS[str(model.backbone.config.dtype)]
    layers = getattr(model.backbone.causal_lm.base_model, "layers", None)
    last = set(layers[-1].modules()) if layers else set()
    checked = {module: module.forward for module in forwards if module in last}
    with _comparable(model):
        expected = _gradients(model, batch)
        for module in checked:
            module.forward = forwards[module]
        try:
            apart = _distance(_gradients(model, batch), expected) / _distance(expected)
            problem = f"its gradients differ by {apart:.2g} of their norm, more than {limit:g}"
        except Exception as error:  # whatever a compiler of kernels raises
            apart, problem = float("nan"), f"it fails: {type(error).__name__}: {error}"
    if checked and apart <= limit:
        for module, forward in forwards.items():
            module.forward = forward
        return True
    for module, forward in checked.items():
        module.forward = forward
    warnings.warn(
        f"model.backbone.kernels: {name} is not used, since "
        f"{problem if checked else 'it knows no layer of this model'}. The plain path is used.",
        stacklevel=2,
    )
    return False


def small_batch(model: StepModel) -> StepBatch:
    """Two trees of a few attempts, on the model's device."""
    solutions = [
        Solution(
            f"How many apples are in {problem} boxes?",
            tuple(Step(f"{attempt} + {n} = {attempt + n}.", float(n % 2)) for n in range(6)),
            source="kernels",
            id=f"{problem}-{attempt}",
        )
        for problem in (3, 4)
        for attempt in range(4)
    ]
    data = encode_solutions(solutions, cast(Encoder, model.encoder), NO_LIMIT)
    ((planned,),) = Planner(measure(data), NO_LIMIT).evaluation_steps()
    batch = collate(planned, data, PAD_ID)
    return StepBatch(*(tensor.to(model.backbone.device) for tensor in batch))


def _liger(model: StepModel) -> Forwards:
    """Norms and gated MLPs by Liger's kernels, module by module.

    Its rotary embedding would have to be replaced for every model of the process, those on a CPU
    included, and stays as it is.
    """
    from liger_kernel.ops import LigerRMSNormFunction, LigerSiLUMulFunction

    def norm(module: Any) -> Callable[..., Any]:
        # The last argument: not in place, which would overwrite a gradient that others still read.
        return lambda x: LigerRMSNormFunction.apply(
            x, module.weight, module.variance_epsilon, 0.0, "llama", False
        )

    def mlp(module: Any) -> Callable[..., Any]:
        return lambda x: module.down_proj(
            LigerSiLUMulFunction.apply(module.gate_proj(x), module.up_proj(x))
        )

    modules = list(model.backbone.causal_lm.modules())
    norms = {m: norm(m) for m in modules if type(m).__name__ in NORMS}
    gated = (m for m in modules if all(hasattr(m, part) for part in DENSE))
    return norms | {m: mlp(m) for m in gated if "SiLU" in type(getattr(m, "act_fn", None)).__name__}


def _compiled(model: StepModel) -> Forwards:
    """Decoder layers by `torch.compile`, for all shapes at once; on a CPU it needs a C++ compiler.

    Checkpointing is outside of what is compiled, and so are the masks.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, RECOMPILES)
    return {
        layer: torch.compile(layer.forward, dynamic=True)
        for layer in model.backbone.causal_lm.modules()
        if isinstance(layer, GradientCheckpointingLayer)
    }


FASTER: dict[Kernels, Callable[[StepModel], Forwards]] = {"liger": _liger, "compiled": _compiled}
PATHS: tuple[Kernels, ...] = ("plain", *FASTER)  # `train/kernels` in the log is a place in it


@contextmanager
def _comparable(model: StepModel) -> Iterator[None]:
    """Without dropout, and with numbers in fresh adapters, whose zeros would hide half of them."""
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.training]
    trained = [_local(p.detach()) for p in model.parameters() if p.requires_grad]
    fresh = [p for p in trained if not p.any()]
    for parameter in fresh:
        parameter.normal_(std=0.02)
    for dropout in dropouts:
        dropout.eval()
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.train()
        for parameter in fresh:
            parameter.zero_()


def _gradients(model: StepModel, batch: StepBatch) -> list[Tensor]:
    """Of the backbone's trained weights, in float32; of sharded ones this process's part.

    Without the head, whose gradient no layer below changes and which may be far larger.
    """
    loss = reward_weighted_loss(model(batch), batch.labels, batch.weights, batch.total_weight)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    model.zero_grad(set_to_none=True)
    return [_local(gradient).float() for gradient in found]


def _local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process has."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _distance(gradients: list[Tensor], others: list[Tensor] | None = None) -> float:
    """Norm of gradients, or of how far they are from others."""
    if others is not None:
        gradients = [a - b for a, b in zip(gradients, others, strict=True)]
    return float(torch.nn.utils.get_total_norm(gradients))
