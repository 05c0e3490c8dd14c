"""Layers with a sliding window, and LongRoPE: equal to plain transformers beyond both."""

from contextlib import contextmanager

import pytest
import torch
from conftest import tiny_config
from test_prm import batches_of, gradients, naive_logits, tiny_prm
from torch.testing import assert_close
from transformers import AutoConfig

from prm_lightning.batching.tree import attention_mask
from prm_lightning.modeling.attention import block_mask, windows
from prm_lightning.scoring.incremental import IncrementalScorer
from prm_lightning.types import Solution, Step, Unscorable

KINDS = ["mistral", "gemma3_text", "phi3", "gpt_oss"]
PROBLEM = "Ann has 3 apples. How many?"
STEPS = [f"She has {k} + 12 = {k + 12} apples." for k in range(12)]
SHORT, LONG = STEPS[:2], STEPS


def random_prm(folder, **changes):
    prm = tiny_prm(folder, **changes)
    torch.nn.init.normal_(prm.head.weight, std=0.5)
    return prm


@contextmanager
def transformers_own_attention(prm):
    """Masks and attention as transformers makes them."""
    config = prm.backbone.causal_lm.config
    ours = config._attn_implementation
    config._attn_implementation = "eager"
    yield
    config._attn_implementation = ours


def plain_scores(prm, steps):
    """P(correct) by one causal row of transformers' own, which makes its own masks."""
    path = prm.encode(PROBLEM, steps)
    model = prm.backbone.causal_lm
    with torch.no_grad(), transformers_own_attention(prm):
        out = model.base_model(torch.tensor([path.input_ids]), use_cache=False)
        logits = prm.head(out.last_hidden_state[0, list(path.step_positions)])
    return torch.sigmoid(logits).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_beyond_the_window_are_those_of_plain_transformers(tiny_model_folder, kind):
    prm = random_prm(tiny_model_folder(kind))
    forks = [*STEPS[:9], "So 15."], [*STEPS[:6], "So 3.", "So 4."]
    together = prm.score(PROBLEM, [SHORT, LONG, *forks])
    for steps, scores in zip((SHORT, LONG, *forks), together, strict=True):
        expected = pytest.approx(plain_scores(prm, steps), abs=1e-5)
        assert scores == expected
        assert prm.score(PROBLEM, steps) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_beyond_the_window_are_those_of_plain_transformers(tiny_model_folder, kind):
    changes = {"rope_parameters": None} if kind == "phi3" else {}  # see the refusal below
    prm = random_prm(tiny_model_folder(kind, **changes))
    steps = [tuple(map(Step, texts)) for texts in (LONG[:6], [*LONG[:4], "So 3."])]
    solutions = [Solution(PROBLEM, texts, "test", str(i)) for i, texts in enumerate(steps)]
    with transformers_own_attention(prm):
        sum(naive_logits(prm, solution).pow(2).sum() for solution in solutions).backward()
    expected = gradients(prm)
    prm.zero_grad()
    (batch,) = batches_of(prm, solutions)
    assert batch.input_ids.shape[1] > 48  # twice the window
    prm(batch)[batch.step_nodes >= 0].pow(2).sum().backward()
    for name, gradient in gradients(prm).items():
        largest = expected[name].abs().max().item()
        assert_close(gradient, expected[name], rtol=0, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_incremental_scores_beyond_the_window_are_those_of_the_whole(tiny_model_folder, kind):
    prm = random_prm(tiny_model_folder(kind))
    steps = STEPS[:5]  # beyond the window, within LongRoPE's first factors
    scorer = IncrementalScorer(prm)
    state = scorer.start(PROBLEM)
    for step in steps:
        (state, other), _ = scorer.extend(state, [step, "So 15."])
    assert list(state.scores) == pytest.approx(prm.score(PROBLEM, steps), abs=1e-5)
    expected = prm.score(PROBLEM, [*steps[:-1], "So 15."])
    assert list(other.scores) == pytest.approx(expected, abs=1e-5)


def test_flex_attention_sees_what_the_dense_mask_shows():
    ends = torch.tensor([[6, 6, 4, 4, 6, 6, 8, 8], [3, 3, 3, 8, 8, 8, 8, 8]])
    depths = torch.tensor([[0, 1, 2, 3, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2, 3, 4]])
    for window in (None, 1, 2, 3):
        rule = block_mask(ends, depths, window).mask_mod
        grid = torch.meshgrid(torch.arange(2), torch.arange(8), torch.arange(8), indexing="ij")
        dense = attention_mask(ends, depths, window)[:, 0]
        assert torch.equal(rule(grid[0], torch.tensor(0), grid[1], grid[2]), dense)
        naive = [
            [[k <= q < ends[r, k] and depths[r, q] - depths[r, k] < (window or 99)
              for k in range(8)] for q in range(8)] for r in range(2)
        ]  # fmt: skip
        assert dense.tolist() == naive


def test_longrope_never_mixes_lengths(tiny_model_folder):
    prm = random_prm(tiny_model_folder("phi3"))
    solutions = [
        Solution(PROBLEM, tuple(Step(text, 1.0) for text in steps), "test", str(i))
        for i, steps in enumerate((SHORT, LONG))
    ]
    (batch,) = batches_of(prm, solutions)
    with pytest.raises(ValueError, match=r"Set data\.max_tokens to 128 or less"):
        prm(batch)
    (cut,) = batches_of(prm, solutions, max_tokens=128)
    prm(cut)
    scorer = IncrementalScorer(prm)
    state = scorer.start(PROBLEM)
    with pytest.raises(Unscorable, match="context of 128 tokens"):
        for step in LONG:
            ((state,), _) = scorer.extend(state, [step])
    guide = random_prm(tiny_model_folder("phi3"), template="guide")
    with pytest.raises(Unscorable, match=r"context of 128 tokens .*LongRoPE"):
        guide.score(PROBLEM, LONG)


def test_a_window_that_the_model_knows_nothing_of_does_not_count():
    assert windows(tiny_config("llama", sliding_window=24)) == {"full_attention": None}
    assert windows(tiny_config("mistral")) == {"sliding_attention": 24}


@pytest.mark.parametrize(
    ("kind", "changes", "name"),
    [
        ("gpt_neo", {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}, "local"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("bloom", {}, "ALiBi"),
    ],
)
def test_attention_that_counts_places_in_a_row_is_refused(kind, changes, name):
    with pytest.raises(ValueError, match=f"layers of the kind {name}, which cannot read"):
        windows(AutoConfig.for_model(kind, **changes))


def test_layers_that_carry_a_state_are_refused():
    config = tiny_config("qwen3")
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="layers of the kind linear_attention, which cannot read"):
        windows(config)
    assert windows(tiny_config("qwen3")) == {"full_attention": None}
