"""A PRM behind a server scores as it does here; a server that fails is never a score."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from test_prm import rollouts, tiny_prm

from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.step_model import Unscorable
from prm_lightning.scoring.scorers import load_scorer
from prm_lightning.scoring.server import ServerScorer

PROBLEM = "How many?"
SOLUTIONS = [[step.text for step in s.steps] for s in rollouts(problems=1)]


class FakeVllm(ThreadingHTTPServer):
    """Speaks `/pooling` or `/classify` as vLLM does, with a model of its own.

    `faults` are taken one a request: a status code, seconds to sleep, or a function that changes
    the answer.
    """

    daemon_threads = True

    def __init__(self, prm, mode, step_tag=None, context=10_000):
        super().__init__(("127.0.0.1", 0), Handler)
        self.prm, self.mode, self.step_tag, self.context = prm, mode, step_tag, context
        self.faults, self.asked, self.most, self.open = [], [], 0, 0
        self.lock, self.computing = threading.Lock(), threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @torch.no_grad()
    def rows(self, ids):
        """``(tokens, 2)`` probabilities."""
        with self.computing:
            hidden = self.prm.backbone.causal_lm.base_model(torch.tensor([ids]))
        return (hidden.last_hidden_state[0] @ self.prm.head.weight.T).softmax(-1)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.asked.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
            server.open += 1
            server.most = max(server.most, server.open)
            fault = server.faults.pop(0) if server.faults else None
        with contextlib.suppress(BrokenPipeError):  # the client gave up
            self.answer(server, body, fault)

    def answer(self, server, body, fault):
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, int):
            return self.send(fault, {"error": {"message": f"fault {fault}"}})
        if self.path == "/pooling" and server.mode == "classify":
            return self.send(400, {"error": {"message": "Try switching --pooler-config.task"}})
        if self.path == "/classify" and server.mode != "classify":
            return self.send(501, {"error": {"message": "not implemented"}})
        ids = body["input"]
        if len(ids) > server.context:
            return self.send(400, {"error": {"message": "maximum context length is exceeded"}})
        rows = server.rows(ids)
        if self.path == "/classify":
            answer = {"index": 0, "label": "1", "probs": rows[-1].tolist(), "num_classes": 2}
        else:
            assert body["task"] == "token_classify"
            if server.mode == "step":
                rows = rows[torch.tensor(ids) == server.step_tag]
            answer = {"index": 0, "object": "pooling", "data": rows.tolist()}
        record = {"object": "list", "data": [answer]}
        return self.send(200, fault(record) if callable(fault) else record)

    def send(self, status, record):
        with self.server.lock:
            self.server.open -= 1
        text = record if isinstance(record, bytes) else json.dumps(record).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture(scope="module")
def folders(tiny_model_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    for template in ("chat", "plain", "guide"):
        tiny_prm(tiny_model_folder("qwen3"), "classes", template, lora=None).save_pretrained(
            root / template
        )
    return root


@pytest.fixture
def serve(folders):
    servers = []

    def start(mode="step", template="chat", **settings):
        prm = PRM.from_pretrained(folders / template)
        server = FakeVllm(prm, mode, prm.encoder.step_end_id, **settings)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def client(server, **settings):
    settings = {"concurrency": 1} | settings
    return ServerScorer(server.url + "/pooling", server.prm.encoder, "test", **settings)


@pytest.mark.parametrize(
    ("mode", "template"),
    [
        *(
            (mode, template)
            for mode in ("step", "all", "classify")
            for template in ("chat", "plain")
        ),
        ("all", "guide"),
        ("classify", "guide"),
    ],
)
def test_a_server_scores_as_the_model_does_here(serve, folders, mode, template):
    server = serve(mode, template)
    scorer = load_scorer(f"{server.url}#{folders / template}")
    items = [(PROBLEM, SOLUTIONS), ("And Bob?", []), ("And Bob?", SOLUTIONS[:2])]
    for scores, (problem, solutions) in zip(scorer.score_all(items), items, strict=True):
        for row, expected in zip(scores, server.prm.score(problem, solutions), strict=True):
            assert row == pytest.approx(expected, abs=1e-5)
    assert scorer.threshold == server.prm.threshold
    assert server.url in scorer.name


def test_step_ends_inside_the_prompt_are_not_taken_for_steps(serve):
    """Llama 3 writes the step end into every turn's header."""
    server = serve("step")
    tokenizer = server.prm.encoder.tokenizer
    before = tokenizer.chat_template
    tokenizer.chat_template = before.replace("\n", "\n\n")
    try:
        prm = server.prm
        encoder = type(prm.encoder)(tokenizer, "chat", "\n\n")
        prm.encoder = encoder
        (path,) = encoder.encode_all([(PROBLEM, ["1"])])
        assert path.input_ids.count(encoder.step_end_id) > 1
        scorer = client(server)
        expected = prm.score(PROBLEM, SOLUTIONS)
    finally:
        tokenizer.chat_template = before
    for row, there in zip(expected, scorer.score(PROBLEM, SOLUTIONS), strict=True):
        assert there == pytest.approx(row, abs=1e-5)


def test_the_same_prefix_is_asked_for_once(serve, folders):
    server = serve("classify")
    scorer = load_scorer(f"{server.url}/classify#{folders / 'chat'}")
    scorer.score(PROBLEM, [SOLUTIONS[0], SOLUTIONS[0], SOLUTIONS[0][:1]])
    assert len(server.asked) == len(SOLUTIONS[0])


def test_requests_are_bounded_and_carry_the_key(serve, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    server = serve()
    server.faults = [0.05] * 12
    scorer = client(server, concurrency=3)
    scorer.score_all([])
    rng_solutions = [[f"{i} + 1 = {i + 1}"] for i in range(12)]
    assert len(scorer.score(PROBLEM, rng_solutions)) == 12
    assert 1 < server.most <= 3
    assert {headers["authorization"] for _, _, headers in server.asked} == {"Bearer secret"}


def test_what_passes_is_tried_again(serve):
    server = serve()
    server.faults = [503, 429]
    scorer = client(server)
    expected = server.prm.score(PROBLEM, SOLUTIONS[:1])[0]
    assert scorer.score(PROBLEM, SOLUTIONS[:1])[0] == pytest.approx(expected, abs=1e-5)
    assert len(server.asked) == 3


def test_a_server_that_keeps_failing_is_an_error(serve):
    server = serve()
    server.faults = [503] * 9
    scorer = client(server, attempts=2)
    with pytest.raises(OSError, match=r"/pooling answers 503, 2 times: .*fault 503") as caught:
        scorer.score(PROBLEM, SOLUTIONS[:1])
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 2


def test_a_server_that_is_down_is_named(folders):
    prm = PRM.from_pretrained(folders / "chat")
    scorer = ServerScorer("http://127.0.0.1:9", prm.encoder, "test", attempts=2)
    with pytest.raises(
        ConnectionError, match=r"connection to http://127\.0\.0\.1:9/pooling failed"
    ):
        scorer.score(PROBLEM, SOLUTIONS[:1])


def test_a_slow_server_is_named(serve):
    server = serve()
    server.faults = [0.5] * 2
    scorer = client(server, timeout=0.05, attempts=2)
    with pytest.raises(TimeoutError, match=r"no answer in 0\.05 s, 2 times"):
        scorer.score(PROBLEM, SOLUTIONS[:1])


def change(**fields):
    return lambda record: record | {"data": [record["data"][0] | fields]}


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
    ],
)
def test_a_wrong_answer_is_an_error(serve, fault, message):
    server = serve()
    server.faults = [fault]
    scorer = client(server)
    with pytest.raises(ValueError, match=message) as caught:
        scorer.score(PROBLEM, SOLUTIONS[:1])
    assert not isinstance(caught.value, Unscorable)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row", [[0.1, 0.2, 0.7], [3.2, -1.0], ["a", "b"], [None, None], [False, True], float("nan")]
)
def test_numbers_that_are_no_probabilities_are_an_error(serve, row):
    server = serve()
    steps = SOLUTIONS[0]
    server.faults = [change(data=[row] * len(steps))]
    scorer = client(server)
    with pytest.raises(ValueError, match=r"numbers a step|in place of a probability"):
        scorer.score(PROBLEM, [steps])


@pytest.mark.parametrize("status", [401, 404])
def test_a_server_of_another_kind_is_an_error(serve, status):
    server = serve()
    server.faults = [status]
    scorer = client(server)
    with pytest.raises(ValueError, match=f"/pooling answers {status}"):
        scorer.score(PROBLEM, SOLUTIONS[:1])


def test_a_solution_that_the_server_refuses_says_nothing_of_others(serve):
    server = serve(context=200)
    scorer = client(server)
    with pytest.raises(Unscorable, match="maximum context length"):
        scorer.score(PROBLEM, [["She has 3 apples."] * 60])
    assert scorer.score(PROBLEM, SOLUTIONS[:1])


def test_a_url_needs_the_model_behind_it():
    with pytest.raises(ValueError, match="does not say how the model behind it reads"):
        load_scorer("http://127.0.0.1:9")


def test_one_of_several_served_models_is_asked_by_its_name(serve, folders, tmp_path):
    server = serve()
    scorer = load_scorer(f"{server.url}?model=prm#{folders / 'chat'}")
    scorer.score(PROBLEM, SOLUTIONS[:1])
    assert {body["model"] for _, body, _ in server.asked} == {"prm"}
    assert "?model=prm" in scorer.name
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    server.prm.encoder.tokenizer.save_pretrained(adapter)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}')
    manifest = {"model": ".", "layout": "prm-chat", "head": "linear", "step_end": "\n\n"}
    (adapter / "scorer.json").write_text(json.dumps(manifest))
    load_scorer(f"{server.url}?model=prm#{adapter}")
    with pytest.raises(ValueError, match=r"untrained head.*\?model=prm#") as caught:
        load_scorer(f"{server.url}#{adapter}")
    assert "\n" not in str(caught.value)
