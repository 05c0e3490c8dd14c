"""Faster passes, most of all on CPUs. `speed_up` changes speed and nothing else.

- A token of a tree sees its ancestors, a small share of a row that holds many solutions, and a
  dense mask makes a CPU compute all the rest for nothing. `attend` divides rows into blocks of
  queries, each with the keys that it sees.
- Nothing reads the last layer except at a few nodes, so it is computed for these alone.
- LoRA's additions happen inside the matrix products, not as passes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

NAME = "prm_tree"  # among the attention functions of transformers
WHOLE = 256  # rows of so many keys are not divided
QUERIES = 32  # of a block: fewer waste fewer keys, but make more blocks
SPREAD = 5 / 4  # most keys in a group of blocks over fewest: more make fewer calls
READ_BLOCK = 64  # nodes of the last layer are computed in multiples of this
DENSE = ("gate_proj", "up_proj", "down_proj")  # what an MLP without experts has

# Takes the nodes to read and the shape of a batch's rows.
Reading = Callable[[Tensor | None, torch.Size], AbstractContextManager[None]]


def speed_up(causal_lm: Any) -> Reading:
    """Let a model of transformers attend by `attend` in place of `sdpa`, and fuse its adapters.

    Nothing of it is in the model's saved configuration. Returns a context in which the last layer
    is computed at given nodes alone.
    """
    from transformers import AttentionInterface

    config = causal_lm.config.get_text_config()
    if config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        config._attn_implementation = NAME
    fuse_adapters(causal_lm)
    return partial(_reading, causal_lm)


class Blocks(NamedTuple):
    """``B`` blocks of ``Q`` queries, each block with at most ``K`` keys."""

    queries: Tensor | None  # (B, Q) int64, places among those of all rows; None if blocks are rows
    # (B, K) int64, places of every key that a query of the block sees, and of others where it sees
    # fewer than K; None if blocks are rows
    keys: Tensor | None
    bias: Tensor  # (B, 1, Q, K) in the dtype of the queries: 0 where one sees a key, else -inf


# The layers of a model share one mask.
_BLOCKS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def divide(mask: Tensor, dtype: torch.dtype) -> list[Blocks]:
    """The blocks of a mask: all short rows whole, else `QUERIES` of a row, grouped by their keys.

    The mask is ``(R, 1, Q, K)`` bool, every query sees a key, and `dtype` is that of the queries.
    """
    rows, _, length, width = mask.shape
    if width <= WHOLE:
        return [Blocks(None, None, _bias(mask, dtype))]
    groups = []
    even = length - length % QUERIES
    for start, stop, size in ((0, even, QUERIES), (even, length, length - even)):
        if start == stop:
            continue
        sees = mask[:, 0, start:stop].reshape(-1, size, width)  # a block each
        per_row = (stop - start) // size
        row = torch.arange(rows).repeat_interleave(per_row)[:, None]
        first = torch.arange(start, stop, size).repeat(rows)[:, None]
        queries = row * length + first + torch.arange(size)
        seen = sees.any(dim=1)
        counts = seen.sum(dim=1)
        # Together where the most keys are at most `SPREAD` times the fewest.
        alike = (counts.log() / math.log(SPREAD)).ceil()
        for number in torch.unique(alike):
            chosen = torch.nonzero(alike == number)[:, 0]
            most = int(counts[chosen].max())
            keys = seen[chosen].int().argsort(dim=1, descending=True, stable=True)[:, :most]
            bias = _bias(sees[chosen].gather(2, keys[:, None].expand(-1, size, -1)), dtype)
            groups.append(Blocks(queries[chosen], row[chosen] * width + keys, bias[:, None]))
    return groups


def _bias(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, float("-inf"))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """What transformers asks of an attention function; equal to its `sdpa` up to rounding.

    What `sdpa` refuses or treats in ways of its own is left to it, like dropout, other devices and
    compiled code. The query is ``(R, H, Q, D)``, key and value are ``(R, G, K, D)``, where G
    divides H, and the mask is ``(R, 1, Q, K)`` bool, see `batching.tree.attention_mask`.
    Returns ``(R, Q, H, D)``, and no weights.
    """
    if (
        query.device.type != "cpu"
        or torch.compiler.is_compiling()
        or attention_mask is None
        or dropout
        or any(more.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    ):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
    if torch.is_autocast_enabled("cpu"):  # norms of queries and keys may be float32
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if attention_mask not in _BLOCKS:
        _BLOCKS[attention_mask] = divide(attention_mask, query.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    blocks: list[Blocks] = _BLOCKS[attention_mask]
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        out: Tensor = _Attend.apply(query, key, value, blocks, scale)  # type: ignore[no-untyped-call]
    else:
        out = _attend_by_kernel(query, key, value, blocks, scale)
    return out, None


def _attend_by_kernel(
    query: Tensor, key: Tensor, value: Tensor, blocks: list[Blocks], scale: float
) -> Tensor:
    """By PyTorch's kernel, which rounds less than `_Attend` and has a slow backward pass."""
    whole = blocks[0].queries is None
    queries, keys, values = (x if whole else _lay_flat(x) for x in (query, key, value))
    out = torch.empty_like(queries)
    for block in blocks:
        part = F.scaled_dot_product_attention(
            _take(queries, block.queries),
            _take(keys, block.keys),
            _take(values, block.keys),
            attn_mask=block.bias,
            scale=scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        out = _put(out, block.queries, part)
    return _as_rows(out, len(query)).transpose(1, 2).contiguous()


class _Attend(torch.autograd.Function):
    """Attention by two products and a softmax, forward and backward.

    PyTorch's kernel has a backward pass that takes two to four times as long in bfloat16, and
    gathering keys for each block by plain operators makes gradients as large as all keys for each.
    Products are rounded before the softmax, as in `eager` attention of transformers. Only the
    weights are kept beside the inputs.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[Blocks], scale: float
    ) -> Tensor:
        ctx.blocks, ctx.scale, ctx.shapes = blocks, scale, (query.shape, key.shape)
        whole = blocks[0].queries is None
        queries, keys, values = (x if whole else _lay_flat(x) for x in (query * scale, key, value))
        out = torch.empty_like(queries)
        kept = []
        for block in blocks:
            q = _regroup(_take(queries, block.queries), key.shape[1])
            k, v = _take(keys, block.keys), _take(values, block.keys)
            weights = torch.softmax(_add(q @ k.transpose(2, 3), block.bias), dim=-1)
            out = _put(out, block.queries, _regroup(weights @ v, query.shape[1]))
            kept.append(weights)
        ctx.save_for_backward(queries, keys, values, *kept)
        return _as_rows(out, len(query)).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        queries, keys, values, *kept = ctx.saved_tensors
        (rows, heads, _, _), (_, groups, _, _) = ctx.shapes
        whole = ctx.blocks[0].queries is None
        grads = grad.transpose(1, 2) if whole else grad.flatten(0, 1)
        for_q, for_k, for_v = (torch.zeros_like(x) for x in (queries, keys, values))
        for block, weights in zip(ctx.blocks, kept, strict=True):
            q, g = (_regroup(_take(x, block.queries), groups) for x in (queries, grads))
            k, v = _take(keys, block.keys), _take(values, block.keys)
            for_v = _add_to(for_v, block.keys, weights.transpose(2, 3) @ g)
            products = torch._softmax_backward_data(
                g @ v.transpose(2, 3), weights, -1, weights.dtype
            )
            for_k = _add_to(for_k, block.keys, products.transpose(2, 3) @ q)
            for_q = _put(for_q, block.queries, _regroup(products @ k, heads))
        return *(_as_rows(x, rows) for x in (for_q * ctx.scale, for_k, for_v)), None, None


def _lay_flat(x: Tensor) -> Tensor:
    """``(R, H, T, D)`` to ``(R * T, H, D)``."""
    return x.transpose(1, 2).flatten(0, 1)


def _as_rows(x: Tensor, rows: int) -> Tensor:
    """The reverse; ``(R, H, T, D)`` stays."""
    return x if x.dim() == 4 else x.view(rows, -1, *x.shape[1:]).transpose(1, 2)


def _take(x: Tensor, places: Tensor | None) -> Tensor:
    """``(B, H, N, D)``: N places of ``(R * T, H, D)`` for each block; without places `x` is it."""
    if places is None:
        return x
    taken = x.index_select(0, places.flatten())  # several times as fast as indexing
    return taken.view(*places.shape, *x.shape[1:]).transpose(1, 2)


def _put(x: Tensor, places: Tensor | None, blocks: Tensor) -> Tensor:
    """`x` with ``(B, H, N, D)`` at their places, each of which occurs once; see `_take`."""
    return blocks if places is None else x.index_copy_(0, places.flatten(), _lay_flat(blocks))


def _add_to(x: Tensor, places: Tensor | None, blocks: Tensor) -> Tensor:
    """`x` with ``(B, H, N, D)`` added at their places, which may occur in several blocks."""
    return blocks if places is None else x.index_add_(0, places.flatten(), _lay_flat(blocks))


def _regroup(x: Tensor, groups: int) -> Tensor:
    """``(B, H, Q, D)`` to ``(B, G, H / G * Q, D)``, heads that share keys together, or back."""
    return x.reshape(len(x), groups, -1, x.shape[3])


def _add(products: Tensor, bias: Tensor) -> Tensor:
    """``(B, G, H / G * Q, K)`` plus ``(B, 1, Q, K)`` for every head, in place."""
    blocks, groups, _, keys = products.shape
    products.view(blocks, groups, -1, bias.shape[2], keys).add_(bias[:, :, None])
    return products


@contextmanager
def _reading(causal_lm: Any, read: Tensor | None, shape: torch.Size) -> Iterator[None]:
    """On a CPU, compute what treats each node by itself in the last layer where it is read.

    Elsewhere it gives 0. On a GPU, finding the nodes would make the processor wait for it.
    """
    if read is None or not read.numel() or read.device.type != "cpu":
        yield
        return
    nodes = _in_full_blocks(read, shape.numel())

    def narrow(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return args[0].flatten(0, 1).index_select(0, nodes)

    def widen(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        whole = out.new_zeros(shape.numel(), out.shape[-1])
        return whole.index_copy(0, nodes, out).view(*shape, -1)

    modules = pointwise_of_last_layer(causal_lm)
    hooks = [module.register_forward_pre_hook(narrow) for module in modules]
    hooks += [module.register_forward_hook(widen) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def pointwise_of_last_layer(causal_lm: Any) -> list[nn.Module]:
    """Attention's output projection and the MLP; none where a model is built otherwise."""
    try:
        last = causal_lm.base_model.layers[-1]
        modules = [last.self_attn.o_proj, last.mlp]
    except (AttributeError, TypeError, IndexError):
        return []
    return modules if all(hasattr(last.mlp, name) for name in DENSE) else []


def _in_full_blocks(nodes: Tensor, total: int) -> Tensor:
    """All different nodes of ``(M,)``, and others of the total up to a multiple of `READ_BLOCK`.

    Their number then takes few values: a CPU builds code anew for each shape.
    """
    wanted = torch.zeros(total, dtype=torch.bool).index_fill_(0, nodes, value=True)
    others = torch.nonzero(~wanted)[: -int(wanted.sum()) % READ_BLOCK, 0]
    return torch.nonzero(wanted.index_fill_(0, others, value=True))[:, 0]


def fuse_adapters(model: nn.Module) -> int:
    """Let layers with one plain adapter on unquantized weights run by `_AddAdapter`; how many do.

    Those with dropout, a bias in the adapter or a variant such as DoRA stay as they are.
    """
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "lora_A") and _is_plain(m)]
    for layer in layers:
        layer.forward = partial(_forward_fused, layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    from peft.tuners.lora.layer import Linear  # takes seconds, and only adapters need it

    if type(layer) is not Linear or type(layer.base_layer) is not nn.Linear:
        return False
    (name, *others) = layer.active_adapters
    return (
        not others
        and len(layer.lora_A) == 1
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and not layer.lora_bias[name]
        and name not in layer.lora_variant
        and not layer.fan_in_fan_out
        and layer.base_layer.weight.is_floating_point()
    )


def _forward_fused(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In place of the forward pass of a layer of PEFT."""
    if layer.disable_adapters or layer.merged or args or kwargs:
        return type(layer).forward(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
    (name,) = layer.active_adapters
    base, down, up = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    with torch.autocast(x.device.type, enabled=False):
        rows = x.reshape(-1, x.shape[-1]).to(base.weight.dtype)
        settings = (base.weight, base.bias, down, up, layer.scaling[name])
        out: Tensor = _AddAdapter.apply(rows, *settings)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


class _AddAdapter(torch.autograd.Function):
    """``x W^T + bias + scale * (x A^T) B^T``, differentiable in x, A and B.

    What PEFT computes with a product, a scaling and an addition over all outputs more, forward and
    backward; here the low-rank products are added where the large ones lie. Nothing large is kept
    for the backward pass but ``x`` ``(T, K)``. ``W`` is ``(N, K)``, ``A`` ``(r, K)``, ``B``
    ``(N, r)``; the sum is in the dtype of W.
    """

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
        ctx.scale, ctx.dtypes = scale, (down.dtype, up.dtype)
        # Not `addmm_`: torch 2.11 compiles an operation in place here to wrong gradients.
        return torch.addmm(F.linear(x, weight, bias), inner, b.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, a, b, inner = ctx.saved_tensors
        grad_inner = grad @ b  # (T, r)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = torch.addmm(grad @ weight, grad_inner, a, alpha=ctx.scale)
        for_down = (ctx.scale * (grad_inner.T @ x)).to(ctx.dtypes[0])
        for_up = (ctx.scale * (grad.T @ inner)).to(ctx.dtypes[1])
        return for_x, None, None, for_down, for_up, None
