"""The one door to the Claude API, and its prices: one attempt at a time, raw bytes back, no key.

Nothing here tries again. The SDK's own retries could pay twice, since it sends no idempotency key
and repeats a request whose answer was lost. So they are off: a caller that keeps a journal decides.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types.messages import MessageBatch

KEY_NAME = "ANTHROPIC_API_KEY"
_KEY = re.compile(r"sk-ant-[\x21-\x7e]+")
_KEY_IN_TEXT = re.compile(r"sk-ant-[^\s'\"\\]+")
PRICES = Path(__file__).with_name("prices.yaml")
HIDDEN_TOKENS = 1000  # room for what the API adds to a prompt: the answer's schema, turn markup
IN_THE_US = 1.1  # times all prices where a request, or its workspace, asks for inference in the US
_RETRIED = {408, 409, 429}
_REJECTED = {400, 413, 422}
_PERHAPS_ANSWERED = {408, 502, 504}  # from a gateway that did not wait for the API's answer


class ApiError(Exception):
    """An attempt without an answer; its text is one line without the key.

    Args:
        note: what happened.
        then: ``retry`` may succeed later; ``reject``: this request never will; ``stop``: no
            request will until a person has changed something.
        billed: whether the attempt may have been billed anyway.
        wait: seconds that the API asks to wait; None if it says nothing.
        status: HTTP status; 0 where there was no reply.
    """

    def __init__(
        self,
        note: str,
        then: Literal["retry", "reject", "stop"] = "retry",
        *,
        billed: bool = True,
        wait: float | None = None,
        status: int = 0,
    ) -> None:
        super().__init__(scrub(" ".join(note.split()))[:500])
        self.then, self.billed, self.wait, self.status = then, billed, wait, status


class Batch(NamedTuple):
    """A Message Batch."""

    name: str  # at the API
    requests: int
    ended: bool  # whether its results are complete


@dataclass(frozen=True, slots=True)
class Claude:
    """An API client whose every method is one attempt, and raises `ApiError` if that fails."""

    client: Anthropic

    def ask(self, params: Mapping[str, Any], key: str, timeout: float) -> bytes:
        """Send one request, arguments of `messages.create`, and return the answer's raw bytes.

        The key is sent along so that logs of both sides can be matched.
        """
        with _translated():
            reply: Any = self.client.messages.with_raw_response.create(
                **params, timeout=timeout, extra_headers={"Idempotency-Key": key}
            )
            return bytes(reply.http_response.content)

    def count_tokens(self, params: Mapping[str, Any]) -> int:
        """Prompt tokens of a request; free of charge."""
        counted = {name: value for name, value in params.items() if name != "max_tokens"}
        with _translated():
            return self.client.messages.count_tokens(**counted).input_tokens

    def create_batch(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> Batch:
        """Submit a Message Batch of pairs of `custom_id` and arguments of `messages.create`."""
        entries: Any = [{"custom_id": name, "params": params} for name, params in requests]
        with _translated():
            return _batch(self.client.messages.batches.create(requests=entries))

    def batch(self, name: str) -> Batch:
        """How far a batch is."""
        with _translated():
            return _batch(self.client.messages.batches.retrieve(name))

    def newest_batches(self) -> list[Batch]:
        """The newest hundred of the key's workspace, newest first."""
        with _translated():
            return [_batch(found) for found in self.client.messages.batches.list(limit=100).data]

    def results(self, batch: Batch) -> list[bytes]:
        """The raw lines of a batch that has ended, each valid JSON.

        Raises:
            ApiError: the download fails, or ends before all lines have come.
        """
        batches = self.client.messages.batches
        with _translated():
            url = urlsplit(str(batches.retrieve(batch.name).results_url))
            ours = urlsplit(str(self.client.base_url))
            if url.netloc not in ("", ours.netloc):  # the request would hold the key
                raise ApiError(
                    f"results of {batch.name} are said to be at {url.netloc}, not at {ours.netloc}"
                )
            with batches.with_streaming_response.results(batch.name) as reply:
                lines = [line for line in reply.read().split(b"\n") if line]
            if len(lines) != batch.requests or not all(map(json.loads, lines)):
                raise ApiError(f"results of {batch.name}: {len(lines)} lines of {batch.requests}")
            return lines


def connect(key: str, base_url: str | None = None) -> Claude:
    """A client for a checked key; by default at ANTHROPIC_BASE_URL, else at the public address."""
    import anthropic

    return Claude(
        anthropic.Anthropic(api_key=key, base_url=base_url, max_retries=0, open_telemetry=False)
    )


def read_key(environment: Mapping[str, str] = os.environ, dotenv: Path = Path(".env")) -> str:
    """The API key, from the environment or else a .env file; a wrong one is refused, not shown."""
    from dotenv import dotenv_values

    key = (environment.get(KEY_NAME) or dotenv_values(dotenv).get(KEY_NAME) or "").strip()
    if not key:
        raise ValueError(
            f"{KEY_NAME} is not set: export it, or write {KEY_NAME}=... into {dotenv}. "
            "--dry_run works without it."
        )
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{KEY_NAME} does not look like a key ({len(key)} characters): expected sk-ant- and "
            "printable ASCII without spaces. Copy it again."
        )
    return key


def scrub(text: str) -> str:
    """A text without anything that looks like an API key."""
    return _KEY_IN_TEXT.sub("sk-ant-***", text)


def scrub_logs() -> None:
    """From now on no log record of this process shows a key, in message or traceback."""
    make = logging.getLogRecordFactory()

    def make_scrubbed(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.msg, record.args = scrub(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = scrub(logging.Formatter().formatException(record.exc_info))
        return record

    if getattr(make, "__name__", "") != make_scrubbed.__name__:  # once is enough
        logging.setLogRecordFactory(make_scrubbed)


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the SDK as `ApiError`, without their causes: these hold the request and the key."""
    import anthropic
    import httpx2

    try:
        yield
    except anthropic.APIStatusError as error:
        raise _refused(error) from None
    except (anthropic.AnthropicError, httpx2.HTTPError, json.JSONDecodeError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        never_sent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
        billed = not isinstance(error.__cause__, never_sent)
        raise ApiError(f"{type(error).__name__}: {error}{cause}", billed=billed) from None
    except AttributeError as error:  # the SDK gives a page of text where it finds no JSON
        raise ApiError(f"the reply is no answer of this API: {error}") from None


def _refused(error: Any) -> ApiError:
    status, code, headers = error.status_code, str(error.error_code or ""), error.response.headers
    note = f"{status} {error.type or ''} {code}: {error.api_message or error}"
    no_money = code.endswith("spend_limit_reached") or "credit balance" in note.lower()
    if status in _REJECTED and not no_money and error.type != "billing_error":
        return ApiError(note, "reject", billed=False, status=status)
    may_retry = status in _RETRIED or status >= 500
    if no_money or not may_retry or headers.get("x-should-retry") == "false":
        return ApiError(note, "stop", billed=False, status=status)
    said = headers.get("retry-after", "")
    wait = float(said) if re.fullmatch(r"\d{1,9}(\.\d*)?", said) else None
    return ApiError(note, billed=status in _PERHAPS_ANSWERED, wait=wait, status=status)


def _batch(found: MessageBatch) -> Batch:
    counts = found.request_counts
    total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
    return Batch(found.id, total, found.processing_status == "ended")


# Prices ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Price:
    """Prices of one model, in USD per million tokens; prices.yaml explains them."""

    input: float  # uncached prompt tokens
    output: float
    write_5m: float
    write_1h: float
    read: float
    batch_factor: float = 0.5
    thinking_off: str | None = None
    long_prompt: Mapping[str, float] | None = None  # above: tokens, times: factor
    retires: date | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "write_5m", "write_1h", "read", "batch_factor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{name} is {value!r}, expected USD per million tokens, >= 0")

    def factor(self, prompt_tokens: int, *, batch: bool) -> float:
        """What all prices are multiplied by for a prompt of this length."""
        long = self.long_prompt
        times = long["times"] if long and prompt_tokens > long["above"] else 1.0
        return times * (self.batch_factor if batch else 1.0)


def load_prices(file: str | None = None) -> dict[str, Price]:
    """Prices by model: those shipped, overridden by those of a file of the same form."""
    return _read(PRICES) | (_read(Path(file)) if file else {})


def _read(file: Path) -> dict[str, Price]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
        raise ValueError(f"{file}: expected `models:` with one entry a model, as in {PRICES}.")
    prices = {}
    for model, entry in content["models"].items():
        try:
            prices[model] = Price(**{"batch_factor": content.get("batch_factor", 0.5)} | entry)
        except (TypeError, ValueError) as error:  # a missing, unknown or impossible entry
            said = str(error).removeprefix("Price.__init__() ")
            raise ValueError(f"{file}: model {model!r}: {said}.") from error
    return prices


def require_served(prices: Mapping[str, Price], model: str, today: date) -> None:
    """Refuse a model that has no price, or is retired."""
    usable = {m: p for m, p in prices.items() if p.retires is None or today <= p.retires}
    if model not in prices:
        raise ValueError(
            f"model {model!r} has no price, so no budget could hold it; known are "
            f"{', '.join(sorted(usable))}. Add it to a file like {PRICES.name} and give that with "
            "--prices."
        )
    if model not in usable:
        raise ValueError(
            f"model {model!r} was retired on {prices[model].retires}, requests to it fail. "
            "Use its successor, such as claude-sonnet-5-5."
        )


def worst_cost(price: Price, prompt_bytes: int, max_tokens: int, *, batch: bool) -> float:
    """No less than a request can cost, in USD.

    A token is at least one byte, so the bytes of the body bound its prompt tokens; all of them
    are charged at the highest prompt price, and the answer at its full length, `max_tokens`.
    """
    tokens = prompt_bytes + HIDDEN_TOKENS
    highest = max(price.input, price.write_5m, price.write_1h)
    paid = tokens * highest + max_tokens * price.output
    return price.factor(tokens, batch=batch) * IN_THE_US * paid / 1e6


def cost(price: Price, usage: Mapping[str, Any], *, batch: bool) -> float:
    """What an answer cost, in USD, by the `usage` of the API's Message; missing counts are 0."""

    def count(name: str, counts: Mapping[str, Any] = usage) -> int:
        return int(counts.get(name) or 0)

    new, read = count("input_tokens"), count("cache_read_input_tokens")
    written = count("cache_creation_input_tokens")
    hour = count("ephemeral_1h_input_tokens", usage.get("cache_creation") or {})
    five = max(0, written - hour)
    paid = new * price.input + five * price.write_5m + hour * price.write_1h + read * price.read
    paid += count("output_tokens") * price.output
    geography = IN_THE_US if usage.get("inference_geo") == "us" else 1.0
    return price.factor(new + max(written, hour) + read, batch=batch) * geography * paid / 1e6
