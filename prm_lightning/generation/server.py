"""A language model on an OpenAI-compatible server: vLLM, SGLang, Ollama and their like."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
from openai import APIError, APIStatusError, APITimeoutError, DefaultHttpxClient, OpenAI

from prm_lightning.generation.prompts import (
    INSTRUCTION,
    PromptEncoder,
    check_sampling,
    cut_at_stop,
    numbered,
    seed_of,
    user_message,
)
from prm_lightning.modeling.backbone import load_tokenizer
from prm_lightning.types import Completion, Prompt, Sampling, Unanswerable

Endpoint = Literal["chat", "completions"]

KEY_VARIABLE = "GENERATOR_API_KEY"
REFUSED = (400, 413, 422)  # statuses that say something of this request alone
MOST_BYTES = 2**24  # of one answer
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(eq=False)
class ServerGenerator:
    """Asks a server for completions, some at a time.

    Each completion is a request of its own, with a seed made from the run's seed, the prompt and
    the completion's number: repeatable as far as the server heeds seeds.

    Solutions that were begun are continued in one of two ways. ``chat`` sends them as the
    assistant's message, with ``continue_final_message`` (vLLM, SGLang; Ollama needs no asking): the
    server's chat template may strip its end, and a server that does not know this starts a new
    answer. ``completions`` renders the template here and sends token ids to ``/v1/completions``,
    which is exact, for servers that take ids (vLLM, SGLang).

    Args:
        url: of the server, such as ``http://localhost:8000``; ``/v1`` is added where no path is.
        model: as the server names it; None takes the one that it serves.
        endpoint: `chat` or `completions`, as above.
        tokenizer: Hub id or folder that the model's tokenizer is loaded from; for `completions`.
            None takes `model`.
        concurrency: most requests at a time, >= 1.
        attempts: most tries of a request, >= 1, see `connect`.
        timeout: seconds that a whole answer may take.
        instruction: what the user's message says after the problem; empty for a model that was
            trained on bare problems.
        template_options: for the chat template, such as ``{"enable_thinking": false}``.

    The key, for servers that want one, is read from the environment variable GENERATOR_API_KEY.

    Raises:
        ValueError: the server cannot be reached, or serves several models and none was named.
    """

    url: str
    model: str | None = None
    endpoint: Endpoint = "chat"
    tokenizer: str | None = None
    concurrency: int = 16
    attempts: int = 6
    timeout: float = 600.0
    instruction: str = INSTRUCTION
    template_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1 or self.timeout <= 0:
            raise ValueError(
                f"generator: got concurrency={self.concurrency}, attempts={self.attempts}, "
                f"timeout={self.timeout}; expected 1 or more, 1 or more, and above 0."
            )
        self.url = _with_path(self.url)
        self._client = connect(self.url, KEY_VARIABLE, self.timeout, self.attempts)
        self.name = self.model or self._only_model()
        self._encoder: PromptEncoder | None = None
        if self.endpoint == "completions":
            loaded = load_tokenizer(self.tokenizer or self.name)
            self._encoder = PromptEncoder(loaded, self.instruction, self.template_options)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions of each prompt, in the order of the prompts.

        Whether a completion ended at a stop string or by the model's choice is taken from
        ``stop_reason`` (vLLM) or ``matched_stop`` (SGLang); from a server that says neither, all
        that ended count as ``stop`` if there are stop strings. Where it does not say how many
        tokens it wrote, or says what cannot be, they are estimated from the text.

        Raises:
            Unanswerable: the server refuses a prompt.
            ValueError: a blank problem, a setting out of range, or a server that is down, too slow,
                or answers something else than completions.
        """
        check_sampling(sampling)
        samples = numbered(prompts, sampling.n)
        with ThreadPoolExecutor(self.concurrency) as pool:  # after an error nothing more is asked
            done = list(pool.map(lambda one: self._complete(one[0], one[1], sampling), samples))
        return [done[i * sampling.n : (i + 1) * sampling.n] for i in range(len(prompts))]

    def _complete(self, prompt: Prompt, number: int, sampling: Sampling) -> Completion:
        settings: dict[str, Any] = {
            "model": self.name,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed_of(sampling.seed, prompt, number) >> 32,
        }
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        endpoint: Any = self._client.chat.completions
        if self._encoder is not None:
            endpoint = self._client.completions
            settings["prompt"] = self._encoder.ids(prompt)
        else:
            settings |= self._messages(prompt)
        answer = self._ask(lambda: endpoint.with_raw_response.create(**settings))
        return self._read(answer, prompt, sampling)

    def _messages(self, prompt: Prompt) -> dict[str, Any]:
        messages = [{"role": "user", "content": user_message(prompt.problem, self.instruction)}]
        extra: dict[str, Any] = {}
        if prompt.begun:
            messages.append({"role": "assistant", "content": prompt.begun})
            extra = {"add_generation_prompt": False, "continue_final_message": True}
        if self.template_options:
            extra["chat_template_kwargs"] = self.template_options
        return {"messages": messages, "extra_body": extra}

    def _ask(self, request: Callable[[], Any]) -> Any:
        """The JSON that the server answers."""
        try:
            content = request().http_response.content
        except APIError as error:
            what = what_failed(error)
            if isinstance(error, APIStatusError) and error.status_code in REFUSED:
                raise Unanswerable(str(self._failure(f"refused the request: {what}"))) from None
            tries = f"gave no answer to at most {self.attempts} tries: {what}"
            raise self._failure(tries) from None
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            shown = ascii(content[:60])[2:-1]
            raise self._failure(f"answered {shown!r}, expected JSON") from None

    def _read(self, answer: Any, prompt: Prompt, sampling: Sampling) -> Completion:
        """A completion from what a chat or completions endpoint answered."""
        try:
            (choice,) = answer["choices"]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            text = _SURROGATE.sub("\ufffd", text or "")  # JSON can hold halves of a character
            reason = choice["finish_reason"]
            if reason not in ("stop", "length"):
                raise ValueError(f"finish_reason {reason!r}")
            usage = answer.get("usage")
            tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        except (KeyError, TypeError, ValueError) as error:
            shown = json.dumps(answer)[:160]
            raise self._failure(
                f"answered {shown}, expected one choice with a text and a finish_reason of stop or "
                f"length ({type(error).__name__}: {error})"
            ) from None
        if prompt.begun and text.startswith(prompt.begun):  # a server that repeats it
            text = text[len(prompt.begun) :]
        least = 1 if text else 0
        if type(tokens) is not int or not least <= tokens <= sampling.max_tokens:
            # As many as texts of 4 bytes a token have, and the one that ended it.
            tokens = min(sampling.max_tokens, math.ceil(len(text.encode()) / 4) + 1)
        ended = "length" if reason == "length" else _how_it_stopped(choice, sampling.stop)
        return Completion(cut_at_stop(text, sampling.stop), tokens, ended)

    def _only_model(self) -> str:
        answer = self._ask(self._client.models.with_raw_response.list)
        try:
            names: list[str] = [model["id"].encode().decode() for model in answer["data"]]
        except (AttributeError, KeyError, TypeError, UnicodeError):
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


class _BoundedClient(DefaultHttpxClient):
    """Gives up on an answer that is not whole in time, however steadily its bytes come."""

    def send(self, request: httpx2.Request, **settings: Any) -> httpx2.Response:
        answer: Future[httpx2.Response] = Future()

        def ask() -> None:
            try:
                answer.set_result(super(_BoundedClient, self).send(request, **settings))
            except Exception as error:
                answer.set_exception(error)

        thread = Thread(target=ask, daemon=True)
        thread.start()
        thread.join(self.timeout.read)
        if thread.is_alive():
            raise httpx2.ReadTimeout("the answer did not end in time", request=request)
        return answer.result()


@dataclass(eq=False)
class _BoundedStream(httpx2.SyncByteStream):
    """The body of an answer, up to `MOST_BYTES`."""

    stream: Any

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self.stream:
            size += len(part)
            if size > MOST_BYTES:
                raise httpx2.ReadError(f"the answer is larger than {MOST_BYTES} bytes")
            yield part

    def close(self) -> None:
        self.stream.close()


def connect(url: str, key_variable: str, timeout: float, attempts: int) -> OpenAI:
    """A client of a server, which no answer holds up for long or fills the memory of.

    Lost connections, time-outs and the status 408, 409, 429 and 5xx are tried again by the openai
    client, `attempts` times in all, after the wait that ``retry-after`` asks for or a growing one.
    An answer that is compressed, or of more than `MOST_BYTES`, counts as a lost connection. Without
    the environment variable no key is sent.

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
        response.stream = _BoundedStream(response.stream)

    return OpenAI(
        base_url=url,
        api_key=key,
        max_retries=attempts - 1,
        timeout=timeout,
        default_headers={"Accept-Encoding": "identity"},
        http_client=_BoundedClient(timeout=timeout, event_hooks={"response": [bound]}),
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
