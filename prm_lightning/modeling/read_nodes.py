"""The last layer at the nodes that are read alone: nothing reads the others behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

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


@contextmanager
def computed_at(modules: list[nn.Module], nodes: Tensor) -> Iterator[None]:
    """Let modules compute ``(R, T, K)`` to ``(R, T, N)`` at some nodes; elsewhere they give 0.

    Args:
        modules: each treats every node by itself.
        nodes: ``(M,)`` int64, flat indices into R*T, each once.
    """
    rows: list[tuple[int, ...]] = []  # of the calls that have begun

    def narrow(module: nn.Module, args: tuple[Tensor]) -> Tensor:
        (x,) = args
        rows.append(tuple(x.shape[:2]))
        return x.flatten(0, 1).index_select(0, nodes)

    def widen(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        shape = rows.pop()
        whole = out.new_zeros(shape[0] * shape[1], out.shape[-1])
        return whole.index_copy(0, nodes, out).view(*shape, -1)

    hooks = [module.register_forward_pre_hook(narrow) for module in modules]
    hooks += [module.register_forward_hook(widen) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
