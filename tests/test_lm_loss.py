"""The LM loss equals that of one row per solution, in value and gradients, for any sharing."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from prm_lightning.batching.data import collate, encode_solutions, measure
from prm_lightning.batching.encode import Encoder
from prm_lightning.batching.plan import Planner
from prm_lightning.modeling import losses
from prm_lightning.modeling.backbone import Backbone, TreeModel
from prm_lightning.modeling.heads import StepHead
from prm_lightning.modeling.losses import lm_loss
from prm_lightning.modeling.prm import PRM, Manifest
from prm_lightning.sources.rewards import he_rewards, right_steps, supervise
from prm_lightning.types import Solution, Step

WORDS = ["3 + 4 = 7", "So 7 apples", "2 * 7 = 14", "14 - 1 = 13"]


@pytest.fixture(scope="module")
def prms(tokenizer):
    """Two models by their template."""
    return {template: make(tokenizer, template) for template in ("plain", "guide")}


def make(tokenizer, template):
    torch.manual_seed(0)
    encoder = Encoder(tokenizer, template, "\n")
    config = Backbone("tiny", dtype="float32", lora=None)
    model = AutoModelForCausalLM.from_config(tiny_config(tie_word_embeddings=True))
    manifest = Manifest(config, "scalar", template, "\n", encoder.step_end_id)
    return PRM(TreeModel(model, config), StepHead("scalar", 32), encoder, manifest).train()


@st.composite
def attempts(draw):
    """Attempts at two problems that share beginnings, with labels, weights and gaps."""
    solutions, labels = [], st.sampled_from([1.0, 1.0, 0.7, 0.0, None])
    for number in range(draw(st.integers(1, 7))):
        texts = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
        weights = st.sampled_from([0.0, 1.0, 3.0])
        steps = tuple(Step(text, draw(labels), draw(weights)) for text in texts)
        problem = draw(st.sampled_from(["Ann has 3 apples?", "A train runs?"]))
        solutions.append(Solution(problem, steps, "test", str(number)))
    return [supervise(s, "weight", draw(st.sampled_from(["mask", "keep"]))) for s in solutions]


def counted_tokens(solution, encoded):
    """Indices of the tokens that the definition names, found step by step."""
    start, wrong_before = encoded.prompt_tokens, False
    for step, end in zip(solution.steps, encoded.step_positions, strict=True):
        is_right = step.label is not None and step.label >= 0.5 and step.weight > 0
        if is_right and not wrong_before:
            yield from range(start, end + 1)
        wrong_before |= step.label is not None and step.label < 0.5
        start = end + 1


def naive(prm, solutions):
    """Sum over one causal row per solution, and the number of tokens."""
    total, count = torch.zeros(()), 0
    for solution in solutions:
        encoded = prm.encoder.encode(solution.problem, [step.text for step in solution.steps])
        ids = torch.tensor([encoded.input_ids])
        logits = prm.backbone.causal_lm(input_ids=ids, use_cache=False).logits[0]
        for k in counted_tokens(solution, encoded):
            total = total + F.cross_entropy(logits[k - 1], ids[0, k])
            count += 1
    return total, count


def gradients(prm, loss):
    prm.zero_grad()
    if loss.requires_grad:
        (0.3 * loss).backward()  # as the weighted part of a sum
    return {n: p.grad.clone() for n, p in prm.backbone.named_parameters() if p.grad is not None}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    template=st.sampled_from(["plain", "guide"]),
    chunk=st.sampled_from([1, 2**25]),  # so many logits at a time: one token's, or all
    solutions=attempts(),
    batch=st.sampled_from([160, 4096]),
)
def test_trees_give_the_loss_and_gradients_of_one_row_per_solution(
    prms, monkeypatch, template, chunk, solutions, batch
):
    monkeypatch.setattr(losses, "LM_CHUNK", chunk)
    prm = prms[template]
    data = encode_solutions(solutions, prm.encoder, 4096)
    (step,) = Planner(measure(data), batch, solutions_per_step=100).train_steps(0)
    shares = [prm(collate(planned, data, 0), lm=True)[1] for planned in step]
    total, count = naive(prm, solutions)
    want, got = total / max(1, count), torch.stack(shares).sum()
    assert step[0].total_lm == max(1, count)
    assert_close(got, want, atol=1e-5, rtol=1e-5)
    expected, found = gradients(prm, want), gradients(prm, got)
    for name, gradient in expected.items():
        assert_close(found[name], gradient, atol=1e-5 * float(gradient.abs().max()) + 1e-8, rtol=0)


def test_a_step_is_right_by_verdicts_and_never_by_he_rewards():
    verdicts = ["correct", "correct", "incorrect", "correct"]
    rewards = he_rewards(verdicts, solution_correct=True)
    steps = tuple(
        Step(str(k), verdict=verdict, reward=reward)
        for k, (verdict, reward) in enumerate(zip(verdicts, rewards, strict=True))
    )
    settled = supervise(Solution("p", steps, "s"), "weight", "keep")
    assert right_steps(settled) == [True, True, False, False]
    no_trust = replace(settled, steps=(replace(settled.steps[0], weight=0.0), *settled.steps[1:]))
    assert right_steps(no_trust) == [False, True, False, False]


def test_a_confident_right_token_costs_less_than_a_confident_wrong_one():
    head = torch.eye(4)
    hidden, one = 5 * torch.eye(4)[:1], torch.ones(1)
    right = lm_loss(hidden, torch.tensor([0]), one, one, head)
    wrong = lm_loss(hidden, torch.tensor([1]), one, one, head)
    assert right < wrong
    expected = F.cross_entropy(hidden, torch.tensor([0])).item()
    assert right.item() == pytest.approx(expected, rel=1e-4)


def test_no_right_token_costs_nothing_and_keeps_the_graph():
    hidden, targets = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    loss = lm_loss(hidden, targets, torch.zeros(0), torch.ones(()), torch.eye(4))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None


def test_models_that_change_their_logits_or_have_no_lm_head_are_refused(prms, monkeypatch):
    prm = prms["plain"]
    for name in ("final_logit_softcapping", "logits_scaling"):
        with monkeypatch.context() as patch:
            patch.setattr(prm.backbone.causal_lm.config, name, 30.0, raising=False)
            with pytest.raises(ValueError, match=f"lm_loss: 'tiny' .*{name}.* model.lm_loss to 0"):
                _ = prm.backbone.lm_head
    monkeypatch.setattr(prm.backbone.causal_lm, "get_output_embeddings", lambda: None)
    with pytest.raises(ValueError, match="it has no plain LM head"):
        _ = prm.backbone.lm_head
