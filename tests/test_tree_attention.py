"""Attention in blocks is attention under the dense mask, only with less of it computed."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prm import tiny_prm
from torch.nn.functional import scaled_dot_product_attention

from prm_lightning.batching.data import collate, encode_solutions, lay_out, measure
from prm_lightning.batching.plan import Planner
from prm_lightning.batching.tree import attention_mask, build_tree
from prm_lightning.modeling import tree_attention
from prm_lightning.modeling.tree_attention import attend, divide, in_blocks
from prm_lightning.types import Solution, Step


def random_mask(rng, rows=2, length=40):
    """Of rows of trees, padded."""
    trees = []
    for _ in range(rows):
        solutions = [
            (np.array([1, *rng.choices([2, 3], k=rng.randrange(1, 9))], np.int32), np.array([1]))
            for _ in range(rng.randrange(1, 4))
        ]
        trees.append([build_tree(solutions)] * rng.randrange(1, 2))
    return attention_mask(lay_out(trees, length, 0)[2])


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), queries=st.sampled_from([1, 3, 16, 128]))
def test_blocks_hold_every_key_that_is_seen_and_no_other(seed, queries):
    mask = random_mask(random.Random(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_attention, "QUERIES", queries)
        blocks = divide(mask)
    rebuilt = torch.zeros_like(mask)
    for block in blocks:
        part = rebuilt[block.row, 0, block.queries]
        assert block.mask.any(dim=0).all()
        part[:, block.keys] = block.mask
    assert torch.equal(rebuilt, mask)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]))
def test_it_is_attention_under_the_dense_mask(seed, heads):
    mask = random_mask(random.Random(seed))
    torch.manual_seed(seed)
    query = torch.randn(2, heads[0], 40, 8, requires_grad=True)
    key, value = (torch.randn(2, heads[1], 40, 8, requires_grad=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_attention, "QUERIES", 16)
        found, _ = attend(torch.nn.Identity(), query, key, value, mask, scaling=0.3)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_sdpa_refuses_is_refused():
    query = torch.randn(1, 2, 40, 8)
    with pytest.raises(ValueError, match="softcap"):
        attend(
            torch.nn.Identity(), query, query, query, random_mask(random.Random(0), 1), softcap=3
        )


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_model_scores_the_same_in_blocks_and_is_left_as_it_was(tiny_model_folder, kind):
    prm = tiny_prm(tiny_model_folder(kind))
    steps = [Step(f"She has {n} + 12 = {n + 12} apples.") for n in range(12)]
    solutions = [
        Solution("Ann has 3 apples.", (*steps[:k], steps[-k]), "test", str(k)) for k in range(1, 9)
    ]
    data = encode_solutions(solutions, prm.encoder, max_tokens=2000)
    ((planned,),) = Planner(measure(data), tokens_per_batch=4096).evaluation_steps()
    batch = collate(planned, data, pad_id=0)
    assert batch.input_ids.shape[1] > tree_attention.QUERIES
    config = prm.backbone.causal_lm.config
    with torch.no_grad():
        dense = prm(batch)
        with in_blocks(prm.backbone.causal_lm):
            torch.testing.assert_close(prm(batch), dense, rtol=0, atol=1e-5)
    with pytest.raises(KeyboardInterrupt), in_blocks(prm.backbone.causal_lm):
        assert config._attn_implementation == tree_attention.NAME
        raise KeyboardInterrupt
    assert config._attn_implementation == "sdpa"
