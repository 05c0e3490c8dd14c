"""The last layer at the nodes that are read alone: nothing reads the others behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 64  # nodes
DENSE = ("gate_proj", "up_proj", "down_proj")  # what an MLP without experts has


def pointwise_of_last_layer(causal_lm: Any) -> list[nn.Module]:
    """The modules of the last decoder layer that treat each node by itself.

    They are attention's output projection and the MLP; empty where a model is built otherwise.
    """
    layers = getattr(causal_lm.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return []
    projection = getattr(getattr(layers[-1], "self_attn", None), "o_proj", None)
    mlp = getattr(layers[-1], "mlp", None)
    if not isinstance(projection, nn.Module) or not isinstance(mlp, nn.Module):
        return []
    return [projection, mlp] if all(hasattr(mlp, name) for name in DENSE) else []


def in_full_blocks(nodes: Tensor, total: int) -> Tensor:
    """``(M',)`` all different nodes of ``(M,)``, and so many others that M' is a multiple of BLOCK.

    M' then takes few values: a CPU builds code anew for each shape. It is `total` at most, which
    is how many nodes there are.
    """
    wanted = torch.zeros(total, dtype=torch.bool).index_fill_(0, nodes, value=True)
    count = int(wanted.sum())
    others = torch.nonzero(~wanted)[: -count % BLOCK, 0]
    return torch.nonzero(wanted.index_fill_(0, others, value=True))[:, 0]


@contextmanager
def computed_at(modules: list[nn.Module], nodes: Tensor) -> Iterator[None]:
    """Let modules compute ``(R, T, K)`` to ``(R, T, N)`` at some nodes; elsewhere they give 0.

    Args:
        modules: each treats every node by itself.
        nodes: ``(M,)`` int64, flat indices into R*T, each once.
    """
    shapes: list[torch.Size | None] = []  # of the calls that have begun

    def narrow(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor | None:
        if len(args) != 1 or args[0].dim() != 3:  # a model that calls it in another way
            shapes.append(None)
            return None
        (x,) = args
        shapes.append(x.shape)
        return x.flatten(0, 1).index_select(0, nodes)

    def widen(module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        shape = shapes.pop()
        if shape is None:
            return None
        whole = out.new_zeros(shape[0] * shape[1], out.shape[-1])
        return whole.index_copy(0, nodes, out).view(*shape[:2], out.shape[-1])

    hooks = [module.register_forward_pre_hook(narrow) for module in modules]
    hooks += [module.register_forward_hook(widen) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
