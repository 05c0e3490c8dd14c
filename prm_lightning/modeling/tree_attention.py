"""Attention over token trees on a CPU: blocks of queries, each with the keys that it sees.

A token of a tree sees its ancestors, a small share of a row that holds many solutions, and a dense
mask makes a CPU compute all the rest for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

NAME = "prm_tree_blocks"  # among the attention functions of transformers
QUERIES = 128  # of a block: fewer see fewer keys in vain, but make more calls


class Block(NamedTuple):
    """Some queries of one row.

    Args:
        row: which.
        queries: ``Q`` of them, side by side.
        keys: ``(K,)`` int64, every key that one of them sees.
        mask: ``(Q, K)`` bool, which of them sees which.
    """

    row: int
    queries: slice
    keys: Tensor
    mask: Tensor


# The layers of a model share one mask.
_BLOCKS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def divide(mask: Tensor) -> list[Block]:
    """The blocks of a mask.

    Args:
        mask: ``(R, 1, Q, K)`` bool; every query sees a key.
    """
    blocks = []
    for row in range(len(mask)):
        for start in range(0, mask.shape[2], QUERIES):
            queries = slice(start, start + QUERIES)
            sees = mask[row, 0, queries]  # (Q, K)
            keys = sees.any(dim=0).nonzero().flatten()
            blocks.append(Block(row, queries, keys, sees[:, keys]))
    return blocks


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
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
        attention_mask: ``(R, 1, Q, K)`` bool.
        dropout: in [0, 1), on the attention weights.
        scaling: of the products; None takes ``D ** -0.5``.
        more: what `sdpa` refuses or treats in ways of its own is left to it.

    Returns:
        ``(R, Q, H, D)``, and no weights.
    """
    if any(more.get(name) is not None for name in ("softcap", "position_bias", "cache")):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
    if attention_mask not in _BLOCKS:
        _BLOCKS[attention_mask] = divide(attention_mask)
    blocks: list[Block] = _BLOCKS[attention_mask]
    rows: list[list[Tensor]] = [[] for _ in query]
    for row, queries, keys, mask in blocks:
        seen = F.scaled_dot_product_attention(  # its fast kernel takes four dimensions alone
            query[row : row + 1, :, queries],
            key[row : row + 1, :, keys],
            value[row : row + 1, :, keys],
            attn_mask=mask[None, None],
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        rows[row].append(seen.transpose(1, 2))  # (1, Q, H, D)
    return torch.cat([torch.cat(parts, dim=1) for parts in rows]), None


@contextmanager
def in_blocks(model: Any) -> Iterator[None]:
    """A transformers model attends in blocks, if it is on a CPU and would attend by `sdpa`.

    Only for masks of four dimensions, such as `batching.tree.attention_mask` makes.
    """
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa" or model.device.type != "cpu":
        yield
        return
    AttentionInterface.register(NAME, attend)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
