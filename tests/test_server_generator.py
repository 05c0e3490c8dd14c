"""A server over HTTP: what is sent, what is read, what is tried again."""

import contextlib
import gzip
import math
import socket
import threading
import time

import pytest
from loopback import serving

from prm_lightning.generation.prompts import user_message
from prm_lightning.generation.server import MOST_BYTES, ServerGenerator
from prm_lightning.types import Completion, Prompt, Sampling, Unanswerable

PROMPT = Prompt("How many?")


def answer(text="So 5.", reason="stop", tokens=3, **more):
    choice = {"index": 0, "finish_reason": reason, **more}
    choice |= {"message": {"role": "assistant", "content": text}, "text": text}
    return {"id": "1", "choices": [choice], "usage": {"completion_tokens": tokens}}


def chat(*args, **kwargs):
    """As a chat endpoint answers."""
    body = answer(*args, **kwargs)
    del body["choices"][0]["text"]
    return body


def connect(url, **settings):
    return ServerGenerator(url, **{"model": "m", **settings})


def ok(path, body, number):
    return 200, {}, chat()


def test_a_chat_request_says_what_was_asked_for():
    with serving(ok) as (loopback, url):
        generator = connect(url + "/proxy/v1/")  # without a path it would be /v1
        sampling = Sampling(n=2, max_tokens=7, temperature=0.5, top_p=0.9, stop=("\n",), seed=3)
        found = generator.generate([PROMPT, Prompt("Why?")], sampling)
    assert found == [[Completion("So 5.", 3, "stop")] * 2] * 2
    bodies = [body for _, body, _, _ in loopback.requests]
    assert {path for path, *_ in loopback.requests} == {"/proxy/v1/chat/completions"}
    assert len({body.pop("seed") for body in bodies}) == 4
    contents = sorted(body.pop("messages")[0]["content"] for body in bodies)
    assert contents == sorted([user_message("How many?"), user_message("Why?")] * 2)
    rest = {"model": "m", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["\n"]}
    assert bodies == [rest] * 4
    assert generator.name == "m"


def test_the_same_run_sends_the_same_seeds_and_repeated_prompts_send_others():
    def seeds(prompts, **settings):
        with serving(ok) as (loopback, url):
            connect(url).generate(prompts, Sampling(**settings))
            return sorted(body["seed"] for _, body, _, _ in loopback.requests)

    assert seeds([PROMPT], n=2) == seeds([PROMPT], n=2) == seeds([PROMPT, PROMPT], n=1)
    assert seeds([PROMPT], n=2) != seeds([PROMPT], n=2, seed=1)
    assert len(set(seeds([PROMPT, PROMPT], n=3))) == 6


def test_a_begun_solution_is_the_last_message_and_is_continued():
    with serving(ok) as (loopback, url):
        connect(url, template_options={"enable_thinking": False}).generate(
            [Prompt("How many?", "Two and")], Sampling()
        )
    (_, body, _, _) = loopback.requests[0]
    assert body["messages"][1] == {"role": "assistant", "content": "Two and"}
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_completions_endpoint_gets_token_ids(tiny_model_folder, tokenizer):
    folder = str(tiny_model_folder("llama"))
    with serving(lambda *_: (200, {}, answer())) as (loopback, url):
        generator = connect(url, endpoint="completions", tokenizer=folder, instruction="")
        generator.generate([Prompt("How many?<|im_end|>", "Two and\n")], Sampling())
    (path, body, _, _) = loopback.requests[0]
    assert path == "/v1/completions"
    assert tokenizer.decode(body["prompt"]) == (
        "<|im_start|>user\nHow many?<|im_end|><|im_end|>\n<|im_start|>assistant\nTwo and\n"
    )
    assert body["prompt"].count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


@pytest.mark.parametrize(
    ("body", "stop", "completion"),
    [
        (chat("a", "length"), (), Completion("a", 3, "length")),
        (chat("a", "stop"), (), Completion("a", 3, "end")),
        (chat("a", "stop", stop_reason=None), ("\n",), Completion("a", 3, "end")),
        (chat("a", "stop", stop_reason=151645), ("\n",), Completion("a", 3, "end")),
        (chat("a", "stop", stop_reason="\n"), ("\n",), Completion("a", 3, "stop")),
        (chat("a", "stop", matched_stop=2), ("\n",), Completion("a", 3, "end")),
        (chat("a", "stop", matched_stop="\n"), ("\n",), Completion("a", 3, "stop")),
        (chat("a\nb", "stop"), ("\n",), Completion("a", 3, "stop")),
        (chat("Two and three", "stop"), (), Completion(" three", 3, "end")),
        (chat(None, "length"), (), Completion("", 3, "length")),
        (chat("So \ud83d.", "length"), (), Completion("So \ufffd.", 3, "length")),
    ],
)
def test_answers_are_read(body, stop, completion):
    with serving(lambda *_: (200, {}, body)) as (_, url):
        found = connect(url).generate([Prompt("?", "Two and")], Sampling(stop=stop))
    assert found == [[completion]]


@pytest.mark.parametrize("fault", [429, 500, None])
def test_passing_faults_are_tried_again(fault):
    def behave(path, body, number):
        if number < 1:
            return None if fault is None else (fault, {}, {"error": {"message": "busy"}})
        return 200, {}, chat()

    with serving(behave) as (loopback, url):
        assert connect(url).generate([PROMPT], Sampling()) == [[Completion("So 5.", 3, "end")]]
    assert len(loopback.requests) == 2


@pytest.mark.parametrize(
    ("said", "words", "requests"),
    [
        ((503, {}, {"message": "loading"}), "at most 2 tries: .*status 503.*loading", 2),
        ((404, {}, {"message": "no model m"}), "status 404, .*no model m", 1),
        ((401, {}, {"message": "key?"}), "status 401.*GENERATOR_API_KEY", 1),
        ((400, {}, {"message": "too long"}), "refused the request: status 400.*too long", 1),
        ((413, {}, {}), "refused the request: status 413", 1),
        (None, "gave no answer to at most 2 tries", 2),
        ((200, {}, b"<html>hello"), "answered '<html>hello', expected JSON", 1),
        ((200, {}, b"[" * 100_000), r"answered '\[\[\[", 1),
        ((200, {"content-encoding": "gzip"}, gzip.compress(b"{}", mtime=0)), "compressed", 2),
        ((200, {}, b" " * (MOST_BYTES + 1)), f"larger than {MOST_BYTES} bytes", 2),
        ((200, {}, []), r"answered \[\], expected one choice", 1),
        ((200, {}, {"choices": []}), "expected one choice with a text", 1),
        ((200, {}, chat("a", "content_filter")), "finish_reason 'content_filter'", 1),
        ((200, {}, chat(["a"], "stop")), "expected one choice with a text", 1),
    ],
)
def test_a_server_that_does_not_serve_is_one_line(said, words, requests):
    with (
        serving(lambda *_: said) as (loopback, url),
        pytest.raises(ValueError, match=words) as caught,
    ):
        connect(url, attempts=2).generate([PROMPT], Sampling())
    assert "\n" not in str(caught.value) and url in str(caught.value)
    assert isinstance(caught.value, Unanswerable) == ("refused" in words)
    assert len(loopback.requests) == requests


@pytest.mark.parametrize(
    "usage",
    [None, [], *({"completion_tokens": n} for n in (None, -5, 10**9, 0, True, 2.5, math.inf, "3"))],
    ids=repr,
)
def test_tokens_that_cannot_be_are_estimated_from_the_text(usage):
    body = chat("She has 3 apples and buys 4 more.") | {"usage": usage}
    with serving(lambda *_: (200, {}, body)) as (_, url):
        found = [
            connect(url).generate([PROMPT], Sampling(max_tokens=n))[0][0].tokens for n in (99, 4)
        ]
    assert found == [10, 4]


def test_a_server_that_is_down_or_slow_is_one_line():
    with pytest.raises(
        ValueError, match=r"at http://127.0.0.1:9/v1 gave no answer to at most 2 tries"
    ):
        connect("http://127.0.0.1:9", attempts=2).generate([PROMPT], Sampling())

    def slow(path, body, number):
        time.sleep(0.5)
        return 200, {}, chat()

    with (
        serving(slow) as (_, url),
        pytest.raises(ValueError, match="tries: it did not answer in time"),
    ):
        connect(url, attempts=2, timeout=0.1).generate([PROMPT], Sampling())


def test_an_answer_that_trickles_is_slow():
    """Each byte comes soon after the one before it, headers without end."""

    def trickle(listener):
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x-more: of it\r\n" * 50:
                connection.send(bytes([byte]))
                time.sleep(0.01)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=trickle, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(ValueError, match="did not answer in time"):
            connect(url, attempts=1, timeout=0.3).generate([PROMPT], Sampling())
        assert time.monotonic() - begun < 3


def test_requests_are_bounded_keep_their_order_and_end_with_one_failure():
    def late_first(path, body, number):
        content = body["messages"][0]["content"]
        time.sleep(0.2 if content == "0" else 0.03)
        return 200, {}, chat(content)

    prompts = [Prompt(str(i)) for i in range(6)]
    with serving(late_first) as (loopback, url):
        found = connect(url, concurrency=3, instruction="").generate(prompts, Sampling(n=2))
    assert [[c.text for c in some] for some in found] == [[str(i)] * 2 for i in range(6)]
    assert loopback.most_busy == 3

    with (
        serving(lambda *_: (400, {}, {})) as (loopback, url),
        pytest.raises(ValueError, match="status 400"),
    ):
        connect(url, concurrency=2).generate([PROMPT], Sampling(n=500))
    assert len(loopback.requests) < 100


def test_the_only_model_is_found_and_several_are_named():
    def models(*names):
        return lambda *_: (200, {}, {"data": [{"id": name} for name in names]})

    with serving(models("qwen")) as (loopback, url):
        assert ServerGenerator(url).name == "qwen"
    assert loopback.requests[0][0] == "/v1/models"
    with (
        serving(models("a", "b")) as (_, url),
        pytest.raises(ValueError, match=r"serves 2 models \(a, b\), expected one; name it"),
    ):
        ServerGenerator(url)
    for said in (3, {"data": None}, {"data": [None]}, {"data": [{"id": 7}]}, {"data": ["id"]}):
        with (
            serving(lambda *_, said=said: (200, {}, said)) as (_, url),
            pytest.raises(ValueError, match="serves 0 models"),
        ):
            ServerGenerator(url)


def test_the_key_comes_from_its_own_variable_and_is_never_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.delenv("GENERATOR_API_KEY", raising=False)
    with serving(ok) as (loopback, url):
        connect(url).generate([PROMPT], Sampling())
        monkeypatch.setenv("GENERATOR_API_KEY", "secret-1\n")
        connect(url).generate([PROMPT], Sampling())
    keys = [headers["authorization"] for _, _, headers, _ in loopback.requests]
    assert keys == ["Bearer none", "Bearer secret-1"]
    monkeypatch.setenv("GENERATOR_API_KEY", "secret-1\nX: y")
    with pytest.raises(ValueError, match="holds characters that no key has") as caught:
        connect("http://127.0.0.1:9")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "settings", "words"),
    [
        ("localhost:8000", {}, "got the address 'localhost:8000'"),
        ("http://x", {"concurrency": 0}, "got concurrency=0"),
        ("http://x", {"timeout": 0}, "timeout=0"),
    ],
)
def test_bad_settings_are_one_line(url, settings, words):
    with pytest.raises(ValueError, match=words):
        connect(url, **settings)
