"""A language model on an OpenAI-compatible server: vLLM, SGLang, Ollama and their like."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
from openai import APIError, APIStatusError, APITimeoutError, DefaultHttpxClient, OpenAI

from prm_lightning.generation.prompts import (
    INSTRUCTION,
    PromptEncoder,
    check_sampling,
    cut_at_stop,
    seed_of,
    user_message,
)
from prm_lightning.types import Completion, Prompt, Sampling, Unanswerable

Endpoint = Literal["chat", "completions"]

KEY_VARIABLE = "GENERATOR_API_KEY"
REFUSED = (400, 413, 422)  # statuses that say something of this request alone
MOST_BYTES = 2**24  # of one answer
_SURROGATE = re.compile("[\ud800-\udfff]")


class ServerGenerator:
    """Asks a server for completions, some at a time.

    Each completion is a request of its own: every server then counts its tokens, and a seed made
    from the run's seed, the prompt and the completion's number makes it repeatable as far as the
    server heeds seeds. vLLM and SGLang read a prompt that many requests share once.

    Solutions that were begun are continued in one of two ways. ``chat`` sends them as the last,
    the assistant's message, with ``continue_final_message`` (vLLM, SGLang; Ollama does so unasked).
    The server renders its chat template, which may strip the end of what was begun, and one that
    knows nothing of this starts a new answer. ``completions`` renders the template here and sends
    token ids to ``/v1/completions``, which is exact, for servers that take ids (vLLM, SGLang).

    Args:
        url: of the server, such as ``http://localhost:8000``; ``/v1`` is added where no path is.
        model: as the server names it; None takes the one that it serves.
        endpoint: `chat` or `completions`, as above.
        tokenizer: Hub id or folder that the model's tokenizer is loaded from; for `completions`.
            None takes `model`.
        concurrency: most requests at a time, >= 1.
        attempts: most tries of a request, >= 1, see `connect`.
        timeout: seconds that the server may take to begin an answer, and again to end it.
        instruction: what the user's message says after the problem; empty for a model that was
            trained on bare problems.
        template_options: for the chat template, such as ``{"enable_thinking": false}``.

    The key, for servers that want one, is read from the environment variable GENERATOR_API_KEY.

    Raises:
        ValueError: the server cannot be reached, or serves several models and none was named.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        endpoint: Endpoint = "chat",
        tokenizer: str | None = None,
        concurrency: int = 16,
        attempts: int = 6,
        timeout: float = 600.0,
        instruction: str = INSTRUCTION,
        template_options: dict[str, Any] | None = None,
    ) -> None:
        if concurrency < 1 or attempts < 1 or timeout <= 0:
            raise ValueError(
                f"generator: got concurrency={concurrency}, attempts={attempts}, "
                f"timeout={timeout}; expected 1 or more, 1 or more, and above 0."
            )
        self.url = _with_path(url)
        self._client = connect(self.url, KEY_VARIABLE, timeout, attempts)
        self._concurrency = concurrency
        self._attempts = attempts
        self._instruction = instruction
        self._options = template_options or {}
        self._model = model or self._only_model()
        self._encoder: PromptEncoder | None = None
        if endpoint == "completions":
            from prm_lightning.modeling.backbone import load_tokenizer

            loaded = load_tokenizer(tokenizer or self._model)
            self._encoder = PromptEncoder(loaded, instruction, template_options)

    @property
    def name(self) -> str:
        """The model, as the server names it."""
        return self._model

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions of each prompt, in the order of the prompts.

        Whether a completion ended at a stop string or by the model's choice is taken from
        ``stop_reason`` (vLLM) or ``matched_stop`` (SGLang); from a server that says neither, all
        that ended count as ``stop`` if there are stop strings. Where it does not say how many
        tokens it wrote, or says what cannot be, they are counted from the text.

        Raises:
            Unanswerable: the server refuses a prompt.
            ValueError: a blank problem, a setting out of range, or a server that is down, too slow,
                or answers something else than completions.
        """
        check_sampling(sampling)
        for prompt in prompts:
            if not prompt.problem.strip():
                raise ValueError("generator: a prompt's problem is blank, expected text.")
        seen: Counter[Prompt] = Counter()
        tasks = []
        for prompt in prompts:
            for _ in range(sampling.n):
                tasks.append((prompt, seen[prompt]))  # which of the completions of equal prompts
                seen[prompt] += 1
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            done = list(pool.map(lambda task: self._complete(task[0], task[1], sampling), tasks))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nothing more is asked
        return [done[i * sampling.n : (i + 1) * sampling.n] for i in range(len(prompts))]

    def _complete(self, prompt: Prompt, number: int, sampling: Sampling) -> Completion:
        settings: dict[str, Any] = {
            "model": self._model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed_of(sampling.seed, prompt, number) >> 32,
        }
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        endpoint: Any
        if self._encoder is not None:
            endpoint = self._client.completions
            settings["prompt"] = self._encoder.ids(prompt)
        else:
            endpoint = self._client.chat.completions
            settings |= self._messages(prompt)
        answer = self._ask(lambda: endpoint.with_raw_response.create(**settings))
        return self._read(answer, prompt, sampling)

    def _messages(self, prompt: Prompt) -> dict[str, Any]:
        messages = [{"role": "user", "content": user_message(prompt.problem, self._instruction)}]
        extra: dict[str, Any] = {}
        if prompt.begun:
            messages.append({"role": "assistant", "content": prompt.begun})
            extra = {"add_generation_prompt": False, "continue_final_message": True}
        if self._options:
            extra["chat_template_kwargs"] = self._options
        return {"messages": messages, "extra_body": extra}

    def _ask(self, request: Callable[[], Any]) -> dict[str, Any]:
        """The JSON object that the server answers."""
        try:
            content = request().http_response.content
        except APIStatusError as error:
            if error.status_code in REFUSED:
                refused = self._failure(f"refused the request: {what_failed(error)}")
                raise Unanswerable(str(refused)) from None
            if error.status_code < 500 and error.status_code not in (408, 409, 429):
                raise self._failure(f"refused the request: {what_failed(error)}") from None
            raise self._gave_up(error) from None
        except APIError as error:
            raise self._gave_up(error) from None
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._failure(f"answered {ascii(content[:60])[2:-1]!r}, expected a JSON object")
        return answer

    def _gave_up(self, error: APIError) -> ValueError:
        last = f"the last time: {what_failed(error)}"
        return self._failure(f"gave no answer to {self._attempts} tries, {last}")

    def _read(self, answer: dict[str, Any], prompt: Prompt, sampling: Sampling) -> Completion:
        """A completion from what a chat or completions endpoint answered."""
        try:
            (choice,) = answer["choices"]
            text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
            reason = choice["finish_reason"]
            if not isinstance(text, str) or reason not in ("stop", "length"):
                raise ValueError(f"finish_reason {reason!r}")
        except (KeyError, TypeError, ValueError) as error:
            shown = json.dumps(answer)[:160]
            raise self._failure(
                f"answered {shown}, expected one choice with a text and a finish_reason of stop or "
                f"length ({type(error).__name__}: {error})"
            ) from None
        text = _SURROGATE.sub("\ufffd", text)  # JSON can hold halves of a character, no model can
        if prompt.begun and text.startswith(prompt.begun):  # a server that repeats it
            text = text[len(prompt.begun) :]
        usage = answer.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if type(tokens) is not int or not (1 if text else 0) <= tokens <= sampling.max_tokens:
            tokens = self._count(text, sampling.max_tokens)
        ended = "length" if reason == "length" else _how_it_stopped(choice, sampling.stop)
        return Completion(cut_at_stop(text, sampling.stop), tokens, ended)

    def _count(self, text: str, most: int) -> int:
        """Tokens of a text; without its tokenizer as many as texts of 4 bytes a token have."""
        if self._encoder is not None:
            return min(most, self._encoder.count(text) + 1)  # and the one that ended it
        return min(most, math.ceil(len(text.encode()) / 4) + 1)

    def _only_model(self) -> str:
        answer = self._ask(lambda: self._client.models.with_raw_response.list())
        try:
            names = [str(model["id"]) for model in answer["data"]]
        except (KeyError, TypeError):
            names = []
        if len(names) != 1:
            raise self._failure(
                f"serves {len(names)} models ({', '.join(names)[:200]}), expected one; name it"
            )
        return names[0]

    def _failure(self, what: str) -> ValueError:
        return ValueError(
            f"generator: the server at {self.url} {what}. Check that it runs, and its address and "
            f"model; a key is read from {KEY_VARIABLE}."
        )


class _BoundedStream(httpx2.SyncByteStream):
    """The body of an answer, up to `MOST_BYTES` and a point in time."""

    def __init__(self, stream: Any, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            if size > MOST_BYTES:
                raise httpx2.ReadError(f"the answer is larger than {MOST_BYTES} bytes")
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the answer did not end in time")
            yield part

    def close(self) -> None:
        self._stream.close()


def connect(url: str, key_variable: str, timeout: float, attempts: int) -> OpenAI:
    """A client of a server, which no answer holds up for long or fills the memory of.

    Lost connections, time-outs and the status 408, 409, 429 and 5xx are tried again by the openai
    client, after the wait that ``retry-after`` asks for or a growing one. An answer that is
    compressed, or of more than `MOST_BYTES`, counts as a lost connection.

    Args:
        url: that requests begin with.
        key_variable: environment variable that the key is read from; not set means none is needed.
        timeout: seconds that the server may take to begin an answer, and again to end it.
        attempts: most tries of a request, >= 1.

    Raises:
        ValueError: the key holds characters that no key has.
    """
    key = os.environ.get(key_variable, "").strip() or "none"
    if not (key.isascii() and key.isprintable()):  # else the client's error would show it
        raise ValueError(
            f"{key_variable}: the key in this variable holds characters that no key has. Set it "
            "again."
        )

    def bound(response: httpx2.Response) -> None:
        coding = response.headers.get("content-encoding", "identity")
        if coding != "identity":  # a few bytes may unpack into gigabytes
            raise httpx2.ReadError(f"the answer is compressed ({coding[:20]!r}), which is not read")
        response.stream = _BoundedStream(response.stream, time.monotonic() + timeout)

    return OpenAI(
        base_url=url,
        api_key=key,
        max_retries=attempts - 1,
        timeout=timeout,
        default_headers={"Accept-Encoding": "identity"},
        http_client=DefaultHttpxClient(timeout=timeout, event_hooks={"response": [bound]}),
    )


def _with_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(
            f"generator: got the address {url!r}, expected one such as http://localhost:8000."
        )
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def _how_it_stopped(choice: dict[str, Any], stop: Sequence[str]) -> Literal["end", "stop"]:
    for key in ("stop_reason", "matched_stop"):
        if key in choice:
            return "stop" if isinstance(choice[key], str) and choice[key] in stop else "end"
    return "stop" if stop else "end"


def what_failed(error: APIError) -> str:
    """One line of what went wrong."""
    if isinstance(error, APITimeoutError):
        return "it did not answer in time"
    text = " ".join(str(error.__cause__ or error).split())[:200]
    return f"status {error.status_code}, {text}" if isinstance(error, APIStatusError) else text
