"""LoRA whose additions happen inside the matrix products, not as passes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # of one module


class FusedLinear(Linear):
    """PEFT's layer for one plain adapter, with `add_adapters` as its forward pass.

    It has the parameters, names and methods of the layer that it was made from.
    """

    together: Together | None = None  # with others that read the same input

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``(..., K)`` to ``(..., N)``, in the dtype of the frozen weight."""
        if not self.is_fused or args or kwargs:
            return super().forward(x, *args, **kwargs)
        others = None if torch.compiler.is_compiling() else self.together  # it keeps outputs
        if others is not None and all(layer.is_fused for layer in others.layers):
            return others.output(self, x)
        return add_adapters(x, [self.plain()])[0]

    @property
    def is_fused(self) -> bool:
        """Whether the adapter stands beside the weights, and is on."""
        return not (self.disable_adapters or self.merged)

    def plain(self) -> Adapted:
        """Its weights."""
        (name,) = self.active_adapters
        base: Any = self.base_layer
        down: Any = self.lora_A[name].weight
        up: Any = self.lora_B[name].weight
        return Adapted(base.weight, base.bias, down, up, self.scaling[name])


class Together:
    """Layers that read the same input, computed at once when the first of them is called.

    Args:
        layers: in the order of their calls.
    """

    def __init__(self, layers: list[FusedLinear]) -> None:
        self.layers = layers
        self._input: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}  # of the layers that were not called since

    def output(self, layer: FusedLinear, x: Tensor) -> Tensor:
        """What a layer gives for the input."""
        number = self.layers.index(layer)
        if x is not self._input or number not in self._outputs:
            self._input = x
            outputs = add_adapters(x, [layer.plain() for layer in self.layers])
            self._outputs = dict(enumerate(outputs))
        found = self._outputs.pop(number)
        if not self._outputs:
            self._input = None
        return found


def fuse_adapters(model: nn.Module) -> int:
    """Let every layer of `model` with one plain adapter on unquantized weights run fused.

    Layers with dropout, a bias in the adapter, a variant such as DoRA, or quantized weights stay
    as they are.

    Returns:
        How many layers run fused now.
    """
    layers = [module for module in model.modules() if _is_plain(module)]
    for layer in layers:
        layer.__class__ = FusedLinear
    for module in model.modules():
        for names in SAME_INPUT:
            group = [getattr(module, name, None) for name in names]
            fused = [layer for layer in group if isinstance(layer, FusedLinear)]
            if len(fused) == len(names) and _are_alike(fused):
                together = Together(fused)
                for layer in fused:
                    layer.together = together
    return len(layers)


class Adapted(NamedTuple):
    """A frozen linear layer and its adapter.

    Args:
        weight: ``(N, K)`` float, W; gets no gradient.
        bias: ``(N,)`` or None; gets no gradient.
        down: ``(r, K)`` float, A.
        up: ``(N, r)`` float, B.
        scale: of the adapter, alpha / r.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float


def add_adapters(x: Tensor, layers: Sequence[Adapted]) -> tuple[Tensor, ...]:
    """``x W^T + bias + scale * (x A^T) B^T`` of each layer, differentiable in x, A and B.

    What PEFT computes with a product, a scaling and an addition over all outputs more, forward and
    backward; here the low-rank products are added where the large ones lie, those of all layers
    that can be are one, and so is their gradient of x. Nothing large is kept for the backward pass
    but `x`.

    Args:
        x: ``(..., K)`` float, cast to the dtype of the weights.
        layers: of one rank, one scale and one dtype.

    Returns:
        ``(..., N)`` of each layer, in the dtype of its weight.

    Source: Hu et al. 2021, "LoRA", arXiv:2106.09685.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = x.reshape(-1, x.shape[-1]).to(layers[0].weight.dtype)
        weights, biases, downs, ups, scales = zip(*layers, strict=True)
        outputs = _AddAdapters.apply(rows, scales[0], weights, biases, *downs, *ups)  # type: ignore[no-untyped-call]
    return tuple(out.view(*x.shape[:-1], -1) for out in outputs)


class _AddAdapters(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: float,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        *adapters: Tensor,
    ) -> tuple[Tensor, ...]:
        count = len(weights)
        downs, ups = adapters[:count], [up.to(x.dtype) for up in adapters[count:]]
        down = torch.cat([down.to(x.dtype) for down in downs])  # (count * r, K)
        inner = x @ down.T  # (T, count * r)
        ctx.save_for_backward(x, down, inner, *weights, *ups)
        ctx.scale, ctx.dtypes = scale, [adapter.dtype for adapter in adapters]
        return tuple(
            F.linear(x, weight, bias).addmm_(part, up.T, alpha=scale)
            for weight, bias, part, up in zip(
                weights, biases, inner.chunk(count, dim=1), ups, strict=True
            )
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        count, scale = len(grads), ctx.scale
        x, down, inner, *others = ctx.saved_tensors
        weights, ups = others[:count], others[count:]
        grad_inner = torch.cat([grad @ up for grad, up in zip(grads, ups, strict=True)], dim=1)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = grads[0] @ weights[0]
            for grad, weight in zip(grads[1:], weights[1:], strict=True):
                for_x.addmm_(grad, weight)
            for_x.addmm_(grad_inner, down, alpha=scale)
        for_downs = (grad_inner.T @ x).mul_(scale).chunk(count)
        for_ups = [
            (grad.T @ part).mul_(scale)
            for grad, part in zip(grads, inner.chunk(count, dim=1), strict=True)
        ]
        for_adapters = (
            g.to(dtype) for g, dtype in zip([*for_downs, *for_ups], ctx.dtypes, strict=True)
        )
        return for_x, None, None, None, *for_adapters


def _are_alike(layers: Sequence[FusedLinear]) -> bool:
    """Whether `add_adapters` can take them at once."""
    plain = [layer.plain() for layer in layers]
    return len({(p.down.shape, p.down.dtype, p.scale, p.weight.dtype) for p in plain}) == 1


def _is_plain(module: nn.Module) -> bool:
    if type(module) is not Linear or type(module.base_layer) is not nn.Linear:
        return False
    names = module.active_adapters
    if len(names) != 1 or len(module.lora_A) != 1 or module.fan_in_fan_out:
        return False
    (name,) = names
    return (
        isinstance(module.lora_dropout[name], nn.Identity)
        and not module.lora_bias[name]
        and name not in module.lora_variant
        and module.base_layer.weight.is_floating_point()
    )
