"""LoRA whose additions happen inside the matrix products, not as passes of their own."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F


class FusedLinear(Linear):
    """PEFT's layer for one plain adapter, with `add_adapter` as its forward pass.

    It has the parameters, names and methods of the layer that it was made from.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``(..., K)`` to ``(..., N)``, in the dtype of the frozen weight."""
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base: Any = self.base_layer
        down: Any = self.lora_A[name].weight
        up: Any = self.lora_B[name].weight
        return add_adapter(x, base.weight, base.bias, down, up, self.scaling[name])


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
    return len(layers)


def add_adapter(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
) -> Tensor:
    """``x W^T + bias + scale * (x A^T) B^T``, differentiable in x, A and B.

    What PEFT computes with a product, a scaling and an addition over all outputs more, forward and
    backward; here the low-rank products are added where the large ones lie. Nothing large is kept
    for the backward pass but `x`.

    Args:
        x: ``(..., K)`` float, cast to the dtype of `weight`.
        weight: ``(N, K)`` float, W; gets no gradient.
        bias: ``(N,)`` or None; gets no gradient.
        down: ``(r, K)`` float, A.
        up: ``(N, r)`` float, B.
        scale: of the adapter, alpha / r.

    Returns:
        ``(..., N)`` in the dtype of `weight`.

    Source: Hu et al. 2021, "LoRA", arXiv:2106.09685.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        out: Tensor = _AddAdapter.apply(rows, weight, bias, down, up, scale)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


class _AddAdapter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        a, b = down.to(x.dtype), up.to(x.dtype)
        inner = x @ a.T  # (T, r)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scale = scale
        ctx.dtypes = down.dtype, up.dtype
        # Not `addmm_`: torch 2.11 compiles an operation in place here to wrong gradients.
        return torch.addmm(F.linear(x, weight, bias), inner, b.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, a, b, inner = ctx.saved_tensors
        scale: float = ctx.scale
        down_dtype, up_dtype = ctx.dtypes
        grad_inner = grad @ b  # (T, r)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = torch.addmm(grad @ weight, grad_inner, a, alpha=scale)
        for_down = (scale * (grad_inner.T @ x)).to(down_dtype)
        for_up = (scale * (grad.T @ inner)).to(up_dtype)
        return for_x, None, None, for_down, for_up, None


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
