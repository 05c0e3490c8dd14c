"""The surprisal baseline against a plain loop over the language model."""

import math

import pytest
import torch
from test_prm import tiny_prm

from prm_lightning.evaluation.baselines import Surprisal

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
