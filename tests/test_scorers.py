"""Every scorer keeps the same promises, also one on a server: a failure is never a score."""

import json
import random
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import serving
from test_prm import rollouts, tiny_prm

from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.scorers import ServerScorer, fingerprint, load_scorer
from prm_lightning.types import Scorer, Unscorable

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


# -- on a server -----------------------------------------------------------------------------

PROBLEM = "How many?"
SOLUTIONS = [[step.text for step in s.steps] for s in rollouts(problems=1)]


class FakeVllm:
    """Speaks `/pooling` or `/classify` as vLLM does, with a model of its own.

    `faults` are taken one per request: a status code, seconds to sleep, or a function that changes
    the answer.
    """

    def __init__(self, prm, mode):
        self.prm, self.mode, self.context, self.faults = prm, mode, 10_000, []
        self.computing = threading.Lock()

    @torch.no_grad()
    def rows(self, ids):
        """``(tokens, 2)`` probabilities."""
        with self.computing:
            hidden = self.prm.backbone.causal_lm.base_model(torch.tensor([ids]))
        return (hidden.last_hidden_state[0] @ self.prm.head.weight.T).softmax(-1)

    def __call__(self, path, body, number):
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, int):
            return fault, {}, {"error": {"message": f"fault {fault}"}}
        if path == "/pooling" and self.mode == "classify":
            return 400, {}, {"error": {"message": "Try switching --pooler-config.task"}}
        if path == "/classify" and self.mode != "classify":
            return 501, {}, {"error": {"message": "not implemented"}}
        ids = body["input"]
        if len(ids) > self.context:
            return 400, {}, {"error": {"message": "maximum context length is exceeded"}}
        rows = self.rows(ids)
        if path == "/classify":
            answer = {"index": 0, "label": "1", "probs": rows[-1].tolist(), "num_classes": 2}
        else:
            assert body["task"] == "token_classify"
            if self.mode == "step":
                rows = rows[torch.tensor(ids) == self.prm.encoder.step_end_id]
            answer = {"index": 0, "object": "pooling", "data": rows.tolist()}
        record = {"object": "list", "data": [answer]}
        return 200, {}, fault(record) if callable(fault) else record


@pytest.fixture(scope="module")
def folders(tiny_model_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    for template in ("chat", "plain", "guide"):
        prm = tiny_prm(tiny_model_folder("qwen3"), "classes", template, lora=None)
        prm.save_pretrained(root / template)
    return root


@pytest.fixture
def vllm(request, folders):
    """A server of the mode and template that a test is parametrized with, else step and chat."""
    mode, template = getattr(request, "param", ("step", "chat"))
    server = FakeVllm(PRM.from_pretrained(folders / template), mode)
    with serving(server) as (server.loopback, server.url):
        server.name = f"{server.url}#{folders / template}"
        yield server


def client(server, **settings):
    settings = {"concurrency": 1} | settings
    return ServerScorer(server.url + "/pooling", server.prm.encoder, "test", **settings)


def refusal(scorer, error, message):
    """The one line of an error of some kind."""
    with pytest.raises(error, match=message) as caught:
        scorer.score(PROBLEM, SOLUTIONS[:1])
    assert "\n" not in str(caught.value)
    return caught.value


KINDS = [(mode, template) for mode in ("step", "all", "classify") for template in ("chat", "plain")]


@pytest.mark.parametrize("vllm", [*KINDS, ("all", "guide"), ("classify", "guide")], indirect=True)
def test_a_server_scores_as_the_model_does_here(vllm):
    scorer = load_scorer(vllm.name)
    items = [(PROBLEM, SOLUTIONS), ("And Bob?", []), ("And Bob?", SOLUTIONS[:2])]
    for scores, (problem, solutions) in zip(scorer.score_all(items), items, strict=True):
        for row, expected in zip(scores, vllm.prm.score(problem, solutions), strict=True):
            assert row == pytest.approx(expected, abs=1e-5)
    assert scorer.threshold == vllm.prm.threshold
    assert vllm.url in scorer.name


def test_step_ends_inside_the_prompt_are_not_taken_for_steps(vllm, monkeypatch):
    """Llama 3 writes the step end into every turn's header."""
    encoder = vllm.prm.encoder
    template = encoder.tokenizer.chat_template.replace("\n", "\n\n")
    monkeypatch.setattr(encoder.tokenizer, "chat_template", template)
    vllm.prm.encoder = type(encoder)(encoder.tokenizer, "chat", "\n\n")
    path = vllm.prm.encoder.encode(PROBLEM, ["1"])
    assert path.input_ids.count(encoder.step_end_id) > 1
    expected = vllm.prm.score(PROBLEM, SOLUTIONS)
    for row, there in zip(expected, client(vllm).score(PROBLEM, SOLUTIONS), strict=True):
        assert there == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("vllm", [("classify", "chat")], indirect=True)
def test_the_same_prefix_is_asked_for_once(vllm):
    scorer = load_scorer(vllm.name.replace("#", "/classify#"))
    scorer.score(PROBLEM, [SOLUTIONS[0], SOLUTIONS[0], SOLUTIONS[0][:1]])
    assert len(vllm.loopback.requests) == len(SOLUTIONS[0])


def test_requests_are_bounded_and_carry_the_key(vllm, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    vllm.faults = [0.05] * 12
    scores = client(vllm, concurrency=3).score(PROBLEM, [[f"{i} + 1 = {i + 1}"] for i in range(12)])
    assert len(scores) == 12
    assert 1 < vllm.loopback.most_busy <= 3
    sent = [headers["authorization"] for _, _, headers, _ in vllm.loopback.requests]
    assert set(sent) == {"Bearer secret"}


@pytest.mark.slow
def test_what_passes_is_tried_again_and_then_an_error(vllm):
    vllm.faults = [503, 429]
    expected = vllm.prm.score(PROBLEM, SOLUTIONS[:1])[0]
    scorer = client(vllm, attempts=3)
    assert scorer.score(PROBLEM, SOLUTIONS[:1])[0] == pytest.approx(expected, abs=1e-5)
    assert len(vllm.loopback.requests) == 3
    vllm.faults = [503] * 3
    refusal(scorer, OSError, r"/pooling answers 503, 3 times: .*fault 503")
    assert len(vllm.loopback.requests) == 6


def test_a_server_that_is_down_or_slow_is_named(vllm):
    down = ServerScorer("http://127.0.0.1:9", vllm.prm.encoder, "test", attempts=2)
    refusal(down, ConnectionError, r"http://127\.0\.0\.1:9/pooling: the connection failed")
    vllm.faults = [0.5] * 2
    slow = client(vllm, timeout=0.05, attempts=2)
    refusal(slow, TimeoutError, r"no answer in 0\.05 s, 2 times")


def change(**fields):
    return lambda record: record | {"data": [record["data"][0] | fields]}


def rows(row):
    return change(data=[row] * len(SOLUTIONS[0]))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (change(data=[[0.5, 0.5]] * 7), r"7 scores for \d steps.*\"step_tag_id\":"),
        (change(data=[]), "0 scores for"),
        (change(data=0.5), "no list of rows"),
        (lambda record: {"data": record["data"] * 2}, "no data"),
        (lambda record: {"error": "?"}, "no data"),
        (lambda record: [1], "no data"),
        (lambda record: b"[" * 100_000, "no data"),
        (rows([0.1, 0.2, 0.7]), "3 numbers per step"),
        (rows([3.2, -1.0]), "in place of a probability"),
        (rows(["a", "b"]), "in place of a probability"),
        (rows([None, None]), "in place of a probability"),
        (rows([False, True]), "in place of a probability"),
        (rows(float("nan")), "in place of a probability"),
        (rows([0.9, 0.4]), "in place of two probabilities"),
        (401, "/pooling answers 401"),
        (404, "/pooling answers 404"),
    ],
)
def test_a_wrong_answer_is_an_error(vllm, fault, message):
    vllm.faults = [fault]
    assert not isinstance(refusal(client(vllm), ValueError, message), Unscorable)


def test_a_solution_that_the_server_refuses_says_nothing_of_others(vllm):
    vllm.context = 200
    with pytest.raises(Unscorable, match="maximum context length"):
        client(vllm).score(PROBLEM, [["She has 3 apples."] * 60])
    assert client(vllm).score(PROBLEM, SOLUTIONS[:1])


def test_a_server_scores_no_letters():
    down = ServerScorer("http://127.0.0.1:9/pooling", None, "test")
    for steps in ("It is 5.", ["2 + 3 = 5.", "It is 5."]):
        with pytest.raises(ValueError, match="where the steps of a solution are expected"):
            down.score("2 + 3?", steps)


def test_a_url_needs_the_name_of_a_model():
    with pytest.raises(ValueError, match="does not say how its model reads solutions"):
        load_scorer("http://127.0.0.1:9")


def test_one_of_several_served_models_is_asked_by_its_name(vllm, tmp_path):
    scorer = load_scorer(vllm.name.replace("#", "?model=prm#"))
    scorer.score(PROBLEM, SOLUTIONS[:1])
    assert {body["model"] for _, body, _, _ in vllm.loopback.requests} == {"prm"}
    assert "?model=prm" in scorer.name
    vllm.prm.encoder.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}')
    manifest = {"model": ".", "layout": "prm-chat", "head": "linear", "step_end": "\n\n"}
    (tmp_path / "scorer.json").write_text(json.dumps(manifest))
    load_scorer(f"{vllm.url}?model=prm#{tmp_path}")
    with pytest.raises(ValueError, match=r"untrained head.*\?model=prm#") as caught:
        load_scorer(f"{vllm.url}#{tmp_path}")
    assert "\n" not in str(caught.value)
