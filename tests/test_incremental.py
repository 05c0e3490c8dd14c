"""What is scored step by step, in any order and any company, is what one scores as a whole."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prm import tiny_prm

from prm_lightning.modeling.step_model import Unscorable
from prm_lightning.scoring.incremental import IncrementalScorer

TEMPLATES = ["chat", "plain", "guide"]
STEPS = [f"She has {a} + {b} = {a + b} apples." for a in range(2) for b in range(3)] + ["So 3."]
PROBLEM = "Ann has 3 apples. How many?"
CLOSE = {"abs": 1e-4}


def whole(prm, state):
    return prm.score(state.problem, [state.steps])[0]


def assert_as_whole(prm, states):
    for state in states:
        assert list(state.scores) == pytest.approx(whole(prm, state), **CLOSE)


@pytest.fixture(scope="module")
def models(tiny_model_folder):
    return {
        (kind, template): tiny_prm(tiny_model_folder(kind), template=template)
        for kind in ("llama", "qwen3")
        for template in TEMPLATES
    }


@pytest.mark.parametrize(
    ("kind", "template"), [("qwen3", "chat"), ("llama", "plain"), ("qwen3", "guide")]
)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**16))
def test_any_order_of_extensions_equals_scoring_from_scratch(models, kind, template, seed):
    """Old states branch again, candidates repeat, and dead branches are dropped at random."""
    prm, rng = models[kind, template], random.Random(seed)
    scorer = IncrementalScorer(prm, max_nodes=rng.choice([40, 10_000]))
    states = [scorer.start(PROBLEM), scorer.start("And Bob?")]
    for _ in range(4):
        beams = [(s, rng.choices(STEPS, k=rng.randrange(3))) for s in rng.choices(states, k=3)]
        for (before, steps), (new, scores) in zip(beams, scorer.extend_all(beams), strict=True):
            assert [s.steps for s in new] == [(*before.steps, step) for step in steps]
            assert [s.scores[-1] for s in new] == scores
            states += new
        if rng.random() < 0.3:
            scorer.keep(rng.sample(states, 2))
    assert_as_whole(prm, [s for s in states if s.steps])


@pytest.mark.parametrize("template", TEMPLATES)
def test_shared_tokens_are_computed_and_held_once(models, template):
    prm = models["llama", template]
    computed = []
    hook = prm.backbone.causal_lm.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: computed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    scorer = IncrementalScorer(prm)
    (one, two, _), _ = scorer.extend(scorer.start(PROBLEM), [STEPS[0], STEPS[1], STEPS[0]])
    again, _ = scorer.extend(one, STEPS[:3])
    scorer.extend_all([(one, STEPS[3:5]), (two, STEPS[:4]), (again[0], [STEPS[2]])])
    hook.remove()
    assert len(computed) == 3  # all beams in one pass
    paths = {
        ids[:n]
        for steps in (
            *((STEPS[0], s) for s in STEPS[:5]),
            *((STEPS[1], s) for s in STEPS[:4]),
            (STEPS[0], STEPS[0], STEPS[2]),
        )
        for ids in [prm.encoder.encode(PROBLEM, steps).input_ids]
        for n in range(1, len(ids) + 1)
    }
    tree = one.tree
    assert len(tree) == len(paths)
    assert {layer.keys.shape[-2] for layer in tree.cache.layers} == {len(paths)}
    read = (2 + 3 + 2 + 4 + 1) * len(prm.encoder.branch)  # guide's branch, scored and not kept
    assert sum(computed) == len(paths) + read


def test_dropped_branches_stay_usable(models):
    prm = models["llama", "chat"]
    scorer = IncrementalScorer(prm)
    (one, two), _ = scorer.extend(scorer.start(PROBLEM), STEPS[:2])
    before = len(one.tree)
    scorer.keep([one])
    assert len(one.tree) == len(prm.encoder.encode(PROBLEM, one.steps).input_ids) < before
    (after,), _ = scorer.extend(two, [STEPS[2]])
    (other,), _ = scorer.extend(one, [STEPS[2]])
    assert_as_whole(prm, [after, other])
    scorer.keep([scorer.start(PROBLEM)])  # of no tree that holds anything


def test_a_solution_beyond_the_context_is_refused_and_harms_nothing(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder("llama", max_position_embeddings=64), template="plain")
    scorer = IncrementalScorer(prm)
    (state,), _ = scorer.extend(scorer.start("How many?"), [STEPS[0]])
    nodes = len(state.tree)
    with pytest.raises(Unscorable, match="longer than the context of 64 tokens"):
        scorer.extend_all([(state, [STEPS[1]]), (state, [" ".join(STEPS * 3)])])
    assert len(state.tree) == nodes
    (after,), _ = scorer.extend(state, [STEPS[1]])
    assert_as_whole(prm, [after])


def test_an_interrupted_pass_harms_nothing(models):
    prm = models["llama", "plain"]
    scorer = IncrementalScorer(prm)
    (state,), _ = scorer.extend(scorer.start(PROBLEM), STEPS[:1])
    last = prm.backbone.causal_lm.base_model.layers[1]

    def interrupt(*_):
        raise KeyboardInterrupt

    for begun in (state, scorer.start(PROBLEM)):
        hook = last.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            scorer.extend(begun, STEPS[1:3])
        hook.remove()
        after, _ = scorer.extend(begun, STEPS[1:4])
        assert_as_whole(prm, after)


def test_blank_steps_and_no_steps(models):
    scorer = IncrementalScorer(models["llama", "plain"])
    with pytest.raises(ValueError, match="step 1 of 1 is blank"):
        scorer.extend(scorer.start(PROBLEM), [" "])
    with pytest.raises(ValueError, match=r"text 'So 2\.' where the steps"):
        scorer.extend(scorer.start(PROBLEM), "So 2.")
    assert scorer.extend(scorer.start(PROBLEM), []) == ([], [])
    assert scorer.extend_all([]) == []


def test_flex_attention_is_refused(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder(), attention="flex")
    with pytest.raises(ValueError, match="attention='flex' cannot extend a cache"):
        IncrementalScorer(prm).extend(IncrementalScorer(prm).start(PROBLEM), ["1"])


def test_training_mode_is_left_as_it_was(models):
    prm = models["llama", "plain"].train()
    scorer = IncrementalScorer(prm)
    states, scores = scorer.extend(scorer.start(PROBLEM), STEPS[:2])
    assert prm.training
    assert not torch.tensor(scores).requires_grad
    assert_as_whole(prm.eval(), states)
