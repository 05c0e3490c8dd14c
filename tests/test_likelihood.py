"""The surprisal baseline and the head `likelihood` against a plain loop over the model."""

import math

import pytest
import torch
from test_prm import batches_of, naive_logits, rollouts, tiny_prm
from torch.testing import assert_close

from prm_lightning.evaluation.baselines import Surprisal
from prm_lightning.modeling import heads
from prm_lightning.modeling.heads import FASTER, USUAL
from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.incremental import IncrementalScorer
from prm_lightning.scoring.scorers import load_scorer
from prm_lightning.types import Solution, Step

PROBLEM = "Ann has 3 apples and buys 12 more apples. How many apples?"
SOLUTIONS = [
    ["She has 3 + 12 = 15 apples.", "So the answer is 15."],
    ["She has 3 + 12 = 16 apples.", "That is it.", "So it is 1600 60."],
    ["She has 3 + 12 = 15 apples.", "So the answer is 60."],
    ["So how many?"],
]


def naive(prm, problem, steps):
    """One pass a solution, token by token."""
    encoded = prm.encoder.encode(problem, steps)
    ids, tokenizer = torch.tensor([encoded.input_ids]), prm.encoder.tokenizer
    with torch.no_grad():
        logits = prm.backbone.causal_lm(input_ids=ids, use_cache=False).logits[0]
    surprisal = [
        -float(torch.log_softmax(logits[t - 1].double(), -1)[ids[0, t]])
        for t in range(1, ids.shape[1])
    ]
    scores = []
    for step, end in zip(steps, encoded.step_positions, strict=True):
        length = len(tokenizer(step, add_special_tokens=False)["input_ids"])
        places = range(end - length, end)
        digits = [t for t in places if any(map(str.isdigit, tokenizer.decode([ids[0, t]])))]
        values = [surprisal[t - 1] for t in digits or places]
        scores.append(math.exp(-max(values) if digits else -sum(values) / len(values)))
    return scores


def with_likelihood(folder, template, weight=0.05, **backbone):
    """A model whose scores depend on a hidden state, a bias and the likelihood of numbers."""
    prm = tiny_prm(folder, "likelihood", template, **backbone)
    with torch.no_grad():
        prm.head.weight.normal_(std=0.3)
        prm.head.bias.fill_(0.4)
        prm.head.likelihood.fill_(weight)
    return prm


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("template", ["chat", "plain", "guide"])
def test_scores_are_those_of_a_plain_loop(tiny_model_folder, kind, template):
    prm = tiny_prm(tiny_model_folder(kind), template=template)
    surprisal = Surprisal(prm)
    items = [(PROBLEM, SOLUTIONS), ("How many?", SOLUTIONS[1:2]), (PROBLEM, SOLUTIONS[2:])]
    for budget in (150, 4096):
        for (problem, solutions), rows in zip(
            items, surprisal.score_all(items, tokens_per_batch=budget), strict=True
        ):
            for steps, row in zip(solutions, rows, strict=True):
                assert row == pytest.approx(naive(prm, problem, steps), rel=1e-4)
                assert all(0 < score < 1 for score in row)


def test_shared_prefixes_are_computed_once(tiny_model_folder):
    prm, computed = tiny_prm(tiny_model_folder("llama"), template="plain"), []
    hook = prm.backbone.register_forward_hook(lambda _, args, __: computed.append(args[0].shape))
    Surprisal(prm).score(PROBLEM, [SOLUTIONS[0]] * 5)
    hook.remove()
    length = len(prm.encoder.encode(PROBLEM, SOLUTIONS[0]).input_ids)
    assert sum(rows * tokens for rows, tokens in computed) <= -(-length // 32) * 32


@pytest.mark.parametrize("template", ["chat", "plain", "guide"])
def test_the_head_adds_the_likelihood_of_numbers(
    tiny_model_folder, tmp_path, monkeypatch, template
):
    if template == "plain":
        monkeypatch.setattr(heads, "CHUNK", 1)  # one token at a time
    prm = with_likelihood(tiny_model_folder("llama"), template)
    prm.save_pretrained(tmp_path / "model")
    search = IncrementalScorer(prm)
    for steps in SOLUTIONS:
        with torch.no_grad():
            usual = naive_logits(prm, Solution(PROBLEM, tuple(map(Step, steps)), "test", "0"))
        expected = usual + FASTER * 0.05 * (torch.tensor(naive(prm, PROBLEM, steps)).log() - USUAL)
        expected = torch.sigmoid(expected).tolist()
        assert prm.score(PROBLEM, steps) == pytest.approx(expected, abs=1e-5)
        state = search.start(PROBLEM)
        for step in steps:  # the second time its tokens are in the cache
            search.extend(state, ["Or 7 so.", step])
            (state,), _ = search.extend(state, [step])
        assert list(state.scores) == pytest.approx(expected, abs=1e-5)
    again = PRM.from_pretrained(tmp_path / "model", "cpu")
    assert again.score(PROBLEM, SOLUTIONS) == prm.score(PROBLEM, SOLUTIONS)


def test_its_weight_is_trained_and_no_gradient_goes_through_the_likelihood(tiny_model_folder):
    prm = with_likelihood(tiny_model_folder("llama"), "plain", weight=0.05)
    plain = with_likelihood(tiny_model_folder("llama"), "plain", weight=0.0)
    for model, lm in ((prm, False), (plain, True)):
        (batch,) = batches_of(model, rollouts())
        logits = model(batch, lm=lm)
        logits, loss = logits if lm else (logits, torch.zeros(()))
        (logits.sum() + 0.0 * loss).backward()
    assert prm.head.likelihood.grad.abs() > 1
    for a, b in zip(prm.parameters(), plain.parameters(), strict=True):
        assert_close(a.grad, b.grad)


def test_a_server_is_not_asked_for_what_it_cannot_score(tiny_model_folder, tmp_path):
    with_likelihood(tiny_model_folder("llama"), "plain").save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="Export it, serve the export"):
        load_scorer(f"http://127.0.0.1:9#{tmp_path / 'model'}")
