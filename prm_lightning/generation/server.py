"""A language model behind an OpenAI-compatible server: vLLM, SGLang, Ollama and their like."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from prm_lightning.generation.prompts import INSTRUCTION, PromptEncoder, user_message
from prm_lightning.generation.sampling import check_sampling, cut_at_stop, seed_of
from prm_lightning.types import Completion, Prompt, Sampling

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, OpenAI

Endpoint = Literal["chat", "completions"]

KEY_VARIABLE = "GENERATOR_API_KEY"
_RETRIED = {408, 409, 425, 429}  # and 5xx


@dataclass(frozen=True, slots=True)
class _Task:
    prompt: Prompt
    number: int  # of this completion among those of equal prompts


class ServerGenerator:
    """Asks a server for completions, some at a time.

    Each completion is a request of its own: every server then counts its tokens, and a seed made
    from the run's seed, the prompt and the completion's number makes it repeatable as far as the
    server heeds seeds. vLLM and SGLang read a prompt that many requests share once.

    Solutions that were begun are gone on with in one of two ways. ``chat`` sends them as the last,
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
        attempts: most tries of a request, >= 1. Lost connections, time-outs and the status 408,
            409, 425, 429 and 5xx are tried again, after what ``retry-after`` says or the waits
            below.
        timeout: seconds that one try may take.
        instruction: what the user's message says behind the problem; empty for a model that was
            trained on bare problems.
        template_options: for the chat template, such as ``{"enable_thinking": false}``.
        first_wait: seconds between the first try and the second; doubled after each, with a fifth
            of it up or down by chance.
        longest_wait: seconds between two tries at most, also where the server asks for more.

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
        first_wait: float = 0.5,
        longest_wait: float = 60.0,
    ) -> None:
        if concurrency < 1 or attempts < 1 or timeout <= 0:
            raise ValueError(
                f"generator: got concurrency={concurrency}, attempts={attempts}, "
                f"timeout={timeout}; expected 1 or more, 1 or more, and above 0."
            )
        self.url = _with_path(url)
        self._client = _client(self.url, timeout)
        self._concurrency = concurrency
        self._attempts = attempts
        self._first_wait = first_wait
        self._longest_wait = longest_wait
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
        that ended count as ``stop`` if there are stop strings.

        Raises:
            ValueError: a blank problem, a setting out of range, or a server that is down, too slow,
                refuses the request, or answers something else than completions.
        """
        check_sampling(sampling)
        for prompt in prompts:
            if not prompt.problem.strip():
                raise ValueError("generator: a prompt's problem is blank, expected text.")
        seen: Counter[Prompt] = Counter()
        tasks = []
        for prompt in prompts:
            for _ in range(sampling.n):
                tasks.append(_Task(prompt, seen[prompt]))
                seen[prompt] += 1
        failed = threading.Event()
        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                done = list(pool.map(lambda task: self._complete(task, sampling, failed), tasks))
            finally:
                failed.set()  # what still waits to try again gives up
        return [done[i * sampling.n : (i + 1) * sampling.n] for i in range(len(prompts))]

    def _complete(self, task: _Task, sampling: Sampling, failed: threading.Event) -> Completion:
        settings: dict[str, Any] = {
            "model": self._model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed_of(sampling.seed, task.prompt, task.number) >> 32,
        }
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        endpoint: Any
        if self._encoder is not None:
            endpoint = self._client.completions
            settings["prompt"] = self._encoder.ids(task.prompt)
        else:
            endpoint = self._client.chat.completions
            settings |= self._messages(task.prompt)
        answer = self._ask(lambda: endpoint.with_raw_response.create(**settings), failed)
        return self._read(answer, task.prompt, sampling)

    def _messages(self, prompt: Prompt) -> dict[str, Any]:
        messages = [{"role": "user", "content": user_message(prompt.problem, self._instruction)}]
        extra: dict[str, Any] = {}
        if prompt.begun:
            messages.append({"role": "assistant", "content": prompt.begun})
            extra = {"add_generation_prompt": False, "continue_final_message": True}
        if self._options:
            extra["chat_template_kwargs"] = self._options
        return {"messages": messages, "extra_body": extra}

    def _ask(self, request: Callable[[], Any], failed: threading.Event) -> dict[str, Any]:
        """The JSON object that the server answers, after as many tries as are allowed."""
        from openai import APIConnectionError, APIStatusError

        for attempt in range(1, self._attempts + 1):
            wait = self._first_wait * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            try:
                return self._object(request().http_response.content)
            except APIStatusError as error:
                if error.status_code not in _RETRIED and error.status_code < 500:
                    raise self._failure(f"refused the request: {_said(error)}") from None
                problem = _said(error)
                asked = _asked_to_wait(error)
                wait = wait if asked is None else asked
            except APIConnectionError as error:
                problem = _said(error)
            if attempt < self._attempts and failed.wait(min(wait, self._longest_wait)):
                break
        raise self._failure(f"gave no answer to {attempt} tries, the last time: {problem}")

    def _object(self, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._failure(f"answered {ascii(content[:60])[2:-1]!r}, expected a JSON object")
        return answer

    def _read(self, answer: dict[str, Any], prompt: Prompt, sampling: Sampling) -> Completion:
        """A completion from what a chat or completions endpoint answered."""
        try:
            (choice,) = answer["choices"]
            text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
            tokens = int(answer["usage"]["completion_tokens"])
            reason = choice["finish_reason"]
            if not isinstance(text, str) or reason not in ("stop", "length"):
                raise ValueError(f"finish_reason {reason!r}")
        except (KeyError, TypeError, ValueError) as error:
            shown = json.dumps(answer)[:160]
            raise self._failure(
                f"answered {shown}, expected one choice with a text, a finish_reason of stop or "
                f"length, and usage.completion_tokens ({type(error).__name__}: {error})"
            ) from None
        if prompt.begun and text.startswith(prompt.begun):  # a server that repeats it
            text = text[len(prompt.begun) :]
        ended = "length" if reason == "length" else _how_it_stopped(choice, sampling.stop)
        return Completion(cut_at_stop(text, sampling.stop), tokens, ended)

    def _only_model(self) -> str:
        answer = self._ask(lambda: self._client.models.with_raw_response.list(), threading.Event())
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


def _client(url: str, timeout: float) -> OpenAI:
    from openai import OpenAI

    key = os.environ.get(KEY_VARIABLE, "").strip() or "none"
    if not (key.isascii() and key.isprintable()):  # else the client's error would show it
        raise ValueError(
            f"generator: the key in {KEY_VARIABLE} holds characters that no key has. Set it again."
        )
    return OpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout)


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


def _said(error: APIError) -> str:
    """One line of what went wrong."""
    from openai import APIStatusError, APITimeoutError

    if isinstance(error, APITimeoutError):
        return "it did not answer in time"
    text = " ".join(str(error.__cause__ or error).split())[:200]
    return f"status {error.status_code}, {text}" if isinstance(error, APIStatusError) else text


def _asked_to_wait(error: APIStatusError) -> float | None:
    """Seconds, where the header says a number; a date counts as nothing said."""
    said = error.response.headers.get("retry-after", "")
    return float(said) if re.fullmatch(r"\d{1,9}(\.\d+)?", said) else None
