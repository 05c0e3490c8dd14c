"""Attention over token trees on a CPU: pieces of a batch, each with the keys that it sees.

A token of a tree sees its ancestors, a small share of a row that holds many solutions, and a dense
mask makes a CPU compute all the rest for nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

NAME = "prm_tree"  # among the attention functions of transformers
WHOLE = 256  # rows of so many keys are not divided
QUERIES = 128  # of a block: fewer see fewer keys in vain, but make more calls


class Piece(NamedTuple):
    """Some queries of some rows.

    Args:
        rows: which rows.
        queries: ``Q`` of them, side by side.
        keys: every key that one of them sees, ``K`` of them; all keys, or their ``(K,)`` int64.
        bias: ``(rows, 1, Q, K)`` in the dtype of the queries: 0 where one sees a key, else -inf.
    """

    rows: slice
    queries: slice
    keys: slice | Tensor
    bias: Tensor


# The layers of a model share one mask.
_PIECES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def divide(mask: Tensor, dtype: torch.dtype) -> list[Piece]:
    """The pieces of a mask: one for all short rows, else blocks of `QUERIES` of one row.

    Args:
        mask: ``(R, 1, Q, K)`` bool; every query sees a key.
        dtype: of the queries.
    """
    every = slice(None)
    if mask.shape[3] <= WHOLE:
        return [Piece(every, every, every, _bias(mask, dtype))]
    pieces = []
    for row in range(len(mask)):
        for start in range(0, mask.shape[2], QUERIES):
            queries = slice(start, start + QUERIES)
            sees = mask[row : row + 1, :, queries]
            keys = sees.flatten(0, 2).any(dim=0).nonzero().flatten()
            pieces.append(Piece(slice(row, row + 1), queries, keys, _bias(sees[..., keys], dtype)))
    return pieces


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

    Args:
        module: the layer.
        query: ``(R, H, Q, D)``.
        key: ``(R, G, K, D)``, where G divides H.
        value: like `key`.
        attention_mask: ``(R, 1, Q, K)`` bool, such as `batching.tree.attention_mask` makes.
        dropout: in [0, 1), on the attention weights.
        scaling: of the products; None takes ``D ** -0.5``.
        more: what `sdpa` refuses or treats in ways of its own is left to it, like other devices
            and compiled code.

    Returns:
        ``(R, Q, H, D)``, and no weights.
    """
    if (
        query.device.type != "cpu"
        or torch.compiler.is_compiling()
        or attention_mask is None
        or any(more.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    ):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
    if attention_mask not in _PIECES:
        _PIECES[attention_mask] = divide(attention_mask, query.dtype)
    pieces: list[Piece] = _PIECES[attention_mask]
    # In bfloat16 the backward pass of PyTorch's kernel takes two to four times as long as products.
    trained = query.requires_grad and query.dtype == torch.bfloat16
    weigh = weigh_by_products if trained else F.scaled_dot_product_attention
    parts = [
        weigh(
            query[rows, :, queries], key[rows, :, keys], value[rows, :, keys], attn_mask=bias,
            dropout_p=dropout, scale=scaling, enable_gqa=key.shape[1] != query.shape[1],
        ).transpose(1, 2)  # (rows, Q, H, D)
        for rows, queries, keys, bias in pieces
    ]  # fmt: skip
    if len(parts) == 1:
        return parts[0].contiguous(), None
    per_row = len(parts) // len(query)
    rows = [torch.cat(parts[i : i + per_row], dim=1) for i in range(0, len(parts), per_row)]
    return torch.cat(rows), None


def weigh_by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor,
    dropout_p: float = 0.0,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled-dot-product attention, written out.

    Args:
        query: ``(R, H, Q, D)``.
        key: ``(R, G, K, D)``, where G divides H.
        value: like `key`.
        attn_mask: ``(R, 1, Q, K)``, added to the products.
        dropout_p: in [0, 1), on the attention weights.
        scale: of the products; None takes ``D ** -0.5``.
        enable_gqa: nothing depends on it.

    Returns:
        ``(R, H, Q, D)``. In bfloat16 products are rounded before the softmax, as in `eager`
        attention of transformers.
    """
    rows, groups, keys, size = key.shape
    stacked = query.reshape(rows, groups, -1, size) * (scale or size**-0.5)
    products = (stacked @ key.transpose(2, 3)).view(rows, groups, -1, query.shape[2], keys)
    weights = torch.softmax(products + attn_mask[:, :, None], dim=-1)
    weights = F.dropout(weights, dropout_p).view(rows, groups, -1, keys)
    return (weights @ value).view_as(query)


def attend_by_trees(model: Any) -> None:
    """Let a transformers model that attends by `sdpa` do so by `attend`.

    It is not written into the model's saved configuration.
    """
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        config._attn_implementation = NAME
