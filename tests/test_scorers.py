"""Every scorer keeps the same promises."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prm import tiny_prm

from prm_lightning.scoring.scorers import fingerprint, load_scorer
from prm_lightning.types import Scorer

STEPS = [f"She has {a} + {b} = {a + b} apples." for a in range(3) for b in range(3)]


def attempts(rng, most=5):
    trunk = rng.choices(STEPS, k=3)
    return [trunk[: rng.randrange(4)] + rng.choices(STEPS, k=2) for _ in range(rng.randrange(most))]


@pytest.fixture(scope="module")
def prm(tiny_model_folder):
    return tiny_prm(tiny_model_folder("qwen3"))


@pytest.fixture
def saved(prm, tmp_path):
    prm.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


class Counting:
    """A scorer whose scores can be told from its texts, and that counts what it is asked."""

    name, aggregation, threshold = "counting", "min", 0.5

    def __init__(self, fails_after=10_000):
        self.asked, self.fails_after = [], fails_after

    def score(self, problem, solutions):
        return next(self.score_all([(problem, solutions)]))

    def score_all(self, items):
        for problem, solutions in items:
            for steps in solutions:
                if len(self.asked) >= self.fails_after:
                    raise ConnectionError("server: down")
                self.asked.append((problem, tuple(steps)))
            yield [[len(problem + step) % 10 / 10 for step in steps] for steps in solutions]


@settings(max_examples=4)
@given(seed=st.integers(0, 2**16), budget=st.sampled_from([64, 300, 4096]))
def test_problems_may_be_batched_in_any_way(prm, seed, budget):
    rng = random.Random(seed)
    items = [(f"Ann has {rng.randrange(3)} apples.", attempts(rng)) for _ in range(4)]
    together = list(prm.score_all(items, tokens_per_batch=budget))
    assert [[len(s) for s in scores] for scores in together] == [
        [len(steps) for steps in solutions] for _, solutions in items
    ]
    for (problem, solutions), scores in zip(items, together, strict=True):
        for steps, row in zip(solutions, scores, strict=True):
            assert row == pytest.approx(prm.score(problem, [steps])[0], abs=1e-6)


def test_a_long_job_gives_back_scores_on_the_way(prm):
    items = [("How many?", [[STEPS[0]]])] * 300
    scores = prm.score_all(items)
    computed = []
    hook = prm.backbone.register_forward_hook(lambda *_: computed.append(1))
    next(scores)
    assert len(computed) == 1  # equal solutions are one path
    assert len(list(scores)) == 299
    assert len(computed) == 3
    hook.remove()


def test_gradients_and_training_mode_are_left_alone(prm):
    prm.train()
    for _ in prm.score_all([("How many?", [[STEPS[0]]])] * 2):
        assert prm.training
        assert torch.is_grad_enabled()
    with pytest.raises(ValueError, match="blank"):
        prm.score("How many?", [[" "]])
    assert prm.training
    prm.eval()


def test_scores_that_are_no_numbers_are_an_error(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder())
    prm.head.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="gives NaN for a step"):
        prm.score("How many?", [[STEPS[0]]])


def test_our_folder_is_a_scorer_with_its_own_reading(prm, saved):
    scorer = load_scorer(saved)
    assert isinstance(scorer.name, str)
    prm.record(threshold=0.25)
    assert prm.threshold == 0.25
    assert (scorer.threshold, scorer.aggregation) == (0.5, "min")
    typed: Scorer = scorer
    assert scorer.name == saved
    items = [("How many?", [STEPS[:2], STEPS[:3]]), ("And?", [])]
    assert list(typed.score_all(items)) == [prm.score(*items[0]), []]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "'nowhere' is no folder"),
        ("nowhere/at-all", "cannot load 'nowhere/at-all'"),
        ("nowhere/at/all", "'nowhere/at/all' is no folder"),
        ("nowhere.yaml", "'nowhere.yaml' is no folder"),
        ("{}", r"neither prm\.json nor config\.json"),  # a folder that holds no model
    ],
)
def test_a_model_that_is_not_there_is_one_line(tmp_path, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_scorer(name.format(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["modle", "../{parent}/modle", "outs/model"])
def test_a_mistyped_path_names_the_nearest_before_the_hub(saved, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "model").rename(tmp_path / "out" / "model")
    (tmp_path / "model").symlink_to(tmp_path / "out" / "model")
    path = {"modle": str(tmp_path / "modle")}.get(name, name.format(parent=tmp_path.name))
    with pytest.raises(ValueError, match=r"no folder or file .*Did you mean '.*model'\?"):
        load_scorer(path)
    with pytest.raises(ValueError, match=r"no folder or file 'out/xyz'\.$"):
        load_scorer("out/xyz")


@pytest.mark.skipif(torch.cuda.is_available(), reason="names a device that is not there")
@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "finds 0 GPUs"), ("gpu", "expected cpu, cuda or cuda:1")]
)
def test_a_device_that_is_not_there_is_one_line(saved, device, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_scorer(saved, device)
    assert "\n" not in str(caught.value)


def test_a_fingerprint_follows_the_weights(prm, saved, tmp_path):
    before = fingerprint(saved)
    assert before == fingerprint(saved)
    assert before != fingerprint(f"http://127.0.0.1:9#{saved}")
    (tmp_path / "m.yaml").write_text(f"{{model: {saved}, like: trl}}")
    of_manifest = fingerprint(str(tmp_path / "m.yaml"))
    head = prm.head.weight.data.clone()
    prm.head.weight.data += 1e-3
    prm.save_pretrained(saved, overwrite=True)
    prm.head.weight.data.copy_(head)
    assert fingerprint(saved) != before
    (tmp_path / "m.yaml").write_text(f"{{model: {saved}, like: skywork}}")
    assert fingerprint(str(tmp_path / "m.yaml")) != of_manifest
