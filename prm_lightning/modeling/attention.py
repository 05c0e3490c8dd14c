"""Attention masks of token trees, one for each kind of layer that a language model has.

In: `subtree_end` and `position_ids` of a batch, and the language model's configuration. Out: what
transformers takes as `attention_mask`. Next: `backbone.py`, which runs the language model with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prm_lightning.batching.tree import attention_mask

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


def windows(config: Any) -> dict[str, int | None]:
    """The kinds of attention layers, each with its window: queries see keys less than it away.

    A ValueError says that a layer of this text configuration is no attention, so that it would
    read the branches of a tree one after the other.
    """
    known = "transformers." not in type(config).__module__ or hasattr(
        type(config), "sliding_window"
    )
    window: int | None = getattr(config, "sliding_window", None) if known else None  # left over
    layers = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    kinds = {FULL if kind == "global" else kind for kind in layers or ()}  # GPT-Neo's other word
    if config.model_type in ("bloom", "mpt") or getattr(config, "alibi", False):
        kinds.add("ALiBi")  # which counts places in a row
    if not kinds:  # all layers are alike
        return {SLIDING: window} if window else {FULL: None}
    others = kinds - {FULL, SLIDING, CHUNKED}
    if others:
        raise ValueError(
            f"backbone: a {config.model_type} model has layers of the kind "
            f"{', '.join(sorted(others))}, which cannot read trees of solutions. Take a model "
            "whose layers are all attention."
        )
    return {kind: window if kind == SLIDING else None for kind in sorted(kinds)}


def context_of(config: Any) -> int:
    """Most tokens that a path may have; layers that attend in chunks are exact within one."""
    context = int(config.max_position_embeddings)
    if CHUNKED in windows(config):
        context = min(context, int(config.attention_chunk_size))
    return context


def rope_switch(config: Any) -> int | None:
    """Length beyond which all positions of a forward pass are encoded in another way (LongRoPE).

    None for models whose encoding of a token does not depend on how long its company is.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    for one in (rope, *rope.values()):  # one for all layers, or one for each kind of layer
        if isinstance(one, dict) and one.get("rope_type") == "longrope":
            return int(one["original_max_position_embeddings"])
    return None


def tree_masks(config: Any, subtree_end: Tensor, position_ids: Tensor) -> Any:
    """What a language model attends by in a batch of trees: a mask, or several by kind of layer.

    Takes its text configuration, and two ``(R, T)`` int64 tensors of a `StepBatch`.
    """
    make = block_mask if config._attn_implementation == "flex_attention" else attention_mask
    longest = subtree_end.shape[1]
    return _by_kind(config, longest, lambda window: make(subtree_end, position_ids, window))


def extended_masks(config: Any, sees: Tensor, depths: Tensor) -> Any:
    """What a language model attends by where new nodes come after those of a cache.

    `sees` is ``(Q, N + Q)`` bool, which nodes are ancestors of each new node or itself, and
    `depths` ``(N + Q,)`` int64 of all nodes, the new ones last.
    """
    apart = depths[-len(sees) :, None] - depths[None]  # (Q, N + Q)

    def make(window: int | None) -> Tensor:
        return (sees if window is None else sees & (apart < window))[None, None]

    return _by_kind(config, len(depths), make)


def block_mask(subtree_end: Tensor, position_ids: Tensor, window: int | None) -> Any:
    """`attention_mask` as FlexAttention reads it."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & (query < subtree_end[row, key])
        if window is None:
            return seen
        return seen & (position_ids[row, query] - position_ids[row, key] < window)

    rows, length = subtree_end.shape
    return create_block_mask(sees, rows, None, length, length, device=str(subtree_end.device))


def _by_kind(config: Any, longest: int, make: Callable[[int | None], Any]) -> Any:
    """One mask, or a dict of masks where layers differ; equal windows share one mask."""
    by_window: dict[int | None, Any] = {}
    masks = {}
    for kind, window in windows(config).items():
        # In rows that are no longer than a window it leaves nothing out.
        needed = None if window is None or window >= longest else window
        if needed not in by_window:
            mask = make(needed)
            if config._attn_implementation == "eager":  # which adds a mask to its products
                lowest = torch.finfo(torch.float32).min
                mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, lowest)
            by_window[needed] = mask
        masks[kind] = by_window[needed]
    return masks if len(by_window) > 1 else next(iter(by_window.values()))
