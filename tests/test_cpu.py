"""Attention in blocks is attention under the dense mask, only with less of it computed."""

import random
from contextlib import nullcontext
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prm import gradients, tiny_prm
from torch.nn.functional import scaled_dot_product_attention

from prm_lightning.batching.data import collate, encode_solutions, lay_out, measure
from prm_lightning.batching.plan import Planner
from prm_lightning.batching.tree import attention_mask, build_tree
from prm_lightning.modeling import backbone, cpu
from prm_lightning.modeling.cpu import attend, divide
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


@pytest.fixture
def small_blocks(monkeypatch):
    """Rows of more than 39 keys are divided."""
    monkeypatch.setattr(cpu, "WHOLE", 39)
    monkeypatch.setattr(cpu, "QUERIES", 16)


def test_after_a_cache_only_seen_keys_are_read(small_blocks):
    sees = torch.zeros(1, 1, 5, 400, dtype=torch.bool)
    sees[..., :20] = True
    sees[0, 0, :, -5:] = torch.ones(5, 5).tril().bool()
    (block,) = divide(sees, torch.float32)
    assert block.keys.tolist() == [[*range(20), *range(395, 400)]]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    whole=st.sampled_from([39, 40]),
    block=st.sampled_from([1, 3, 16, 128]),
    spread=st.sampled_from([1.01, 1.25, 100]),
    last=st.sampled_from([5, 40]),
)
def test_it_is_attention_under_the_dense_mask(seed, heads, whole, block, spread, last):
    mask = random_mask(random.Random(seed))[:, :, -last:]
    torch.manual_seed(seed)
    query = torch.randn(2, heads[0], last, 8, requires_grad=True)
    key, value = (torch.randn(2, heads[1], 40, 8, requires_grad=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("WHOLE", whole), ("QUERIES", block), ("SPREAD", spread)):
            patch.setattr(cpu, name, number)
        found, _ = attend(torch.nn.Identity(), query, key, value, mask, scaling=0.3)
        with torch.no_grad():
            scored, _ = attend(torch.nn.Identity(), query, key, value, mask, scaling=0.3)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scored, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(expected)
    grads = (
        torch.autograd.grad((out * weights).sum(), (query, key, value)) for out in (found, expected)
    )
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whole", [39, 40])
def test_keys_that_were_normed_in_float32_are_rounded_under_autocast(monkeypatch, whole):
    monkeypatch.setattr(cpu, "WHOLE", whole)
    mask = random_mask(random.Random(1))
    query, key = (torch.randn(2, 2, 40, 8, requires_grad=True) for _ in range(2))
    value = torch.randn(2, 2, 40, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attend(torch.nn.Identity(), query, key, value, mask)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.float().sum(), (query, key, value))
    assert [x.dtype for x in grads] == [torch.float32, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("whole", [39, 40])
def test_products_in_bfloat16_are_as_exact_as_bfloat16(small_blocks, monkeypatch, whole):
    monkeypatch.setattr(cpu, "WHOLE", whole)
    mask = random_mask(random.Random(0))
    torch.manual_seed(0)
    exact = [torch.randn(2, n, 40, 8, dtype=torch.float64, requires_grad=True) for n in (4, 2, 2)]
    short = [x.detach().bfloat16().requires_grad_() for x in exact]
    kernel = Mock(side_effect=AssertionError("the slow kernel"))
    monkeypatch.setattr(cpu.F, "scaled_dot_product_attention", kernel)
    found, _ = attend(torch.nn.Identity(), *short, mask)
    expected = scaled_dot_product_attention(*exact, attn_mask=mask, enable_gqa=True)
    outputs = [found, *torch.autograd.grad(found.float().square().sum(), short)]
    grads = torch.autograd.grad(expected.square().sum(), exact)
    for one, other in zip(outputs, (expected.transpose(1, 2), *grads), strict=True):
        assert (one - other).norm() < 2 * torch.finfo(torch.bfloat16).eps * other.norm()


def test_what_sdpa_refuses_is_refused():
    query = torch.randn(1, 2, 40, 8)
    mask = random_mask(random.Random(0), 1)
    with pytest.raises(ValueError, match="softcap"):
        attend(torch.nn.Identity(), query, query, query, mask, softcap=3)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_scores_and_gradients_are_the_same_without_it(tiny_model_folder, monkeypatch, kind):
    monkeypatch.setattr(cpu, "WHOLE", 128)
    prm = tiny_prm(tiny_model_folder(kind))
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "speed_up", lambda model: lambda read, shape: nullcontext())
        plain = tiny_prm(tiny_model_folder(kind))
    steps = [Step(f"She has {n} + 12 = {n + 12} apples.") for n in range(12)]
    solutions = [
        Solution("Ann has 3 apples.", (*steps[:k], steps[-k]), "test", str(k)) for k in range(1, 9)
    ]
    data = encode_solutions(solutions, prm.encoder, max_tokens=2000)
    ((planned,),) = Planner(measure(data), tokens_per_batch=4096).evaluation_steps()
    batch = collate(planned, data, pad_id=0)
    assert batch.input_ids.shape[1] > cpu.WHOLE
    implementations = [m.backbone.causal_lm.config._attn_implementation for m in (prm, plain)]
    assert implementations == [cpu.NAME, "sdpa"]
    found, expected = prm(batch), plain(batch)
    with torch.no_grad():
        for logits in (found, prm(batch)):
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    for logits in (found, expected):
        logits.pow(2).sum().backward()
    grads = gradients(plain)
    for name, gradient in gradients(prm).items():
        atol = 1e-5 * grads[name].abs().max().item()
        torch.testing.assert_close(gradient, grads[name], rtol=0, atol=atol, msg=name)


def test_the_name_stays_out_of_what_is_saved(tiny_model_folder, tmp_path):
    prm = tiny_prm(tiny_model_folder(), lora=None)
    prm.save_pretrained(tmp_path / "model")
    assert cpu.NAME not in (tmp_path / "model" / "config.json").read_text()
