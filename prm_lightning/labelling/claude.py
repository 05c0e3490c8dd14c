"""The one door to the Claude API: one attempt at a time, raw bytes back, never the key in a text.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types.messages import MessageBatch

KEY_NAME = "ANTHROPIC_API_KEY"
_KEY = re.compile(r"sk-ant-[\x21-\x7e]+")
_KEY_IN_TEXT = re.compile(r"sk-ant-[^\s'\"\\]+")
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
    """A Message Batch: its name at the API, its size, whether its results are complete."""

    name: str
    requests: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Claude:
    """An API client whose every method is one attempt, and raises `ApiError` if that fails."""

    client: Anthropic

    def ask(self, params: Mapping[str, Any], key: str, timeout: float) -> bytes:
        """Send one request and return the answer's raw bytes.

        Args:
            params: arguments of the API's `messages.create`.
            key: name of the request, sent along so that logs of both sides can be matched.
            timeout: seconds until the attempt is given up.
        """
        with _translated():
            reply: Any = self.client.messages.with_raw_response.create(
                **params, timeout=timeout, extra_headers={"Idempotency-Key": key}
            )
            return bytes(reply.http_response.content)

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
    """A client for a checked key.

    Args:
        key: from `read_key`.
        base_url: address of the API; None takes ANTHROPIC_BASE_URL, else the public one.
    """
    import anthropic

    return Claude(
        anthropic.Anthropic(api_key=key, base_url=base_url, max_retries=0, open_telemetry=False)
    )


def read_key(environment: Mapping[str, str] = os.environ, dotenv: Path = Path(".env")) -> str:
    """The API key, from the environment or else a .env file, stripped.

    Raises:
        ValueError: there is none, or it does not look like one. The message never shows it.
    """
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
    status, code = error.status_code, str(error.error_code or "")
    note = f"{status} {error.type or ''} {code}: {error.api_message or error}"
    no_money = code.endswith("spend_limit_reached") or "credit balance" in note.lower()
    if status in _REJECTED and not no_money and error.type != "billing_error":
        return ApiError(note, "reject", billed=False, status=status)
    may_retry = status in _RETRIED or status >= 500
    headers = error.response.headers
    if no_money or not may_retry or headers.get("x-should-retry") == "false":
        return ApiError(note, "stop", billed=False, status=status)
    said = headers.get("retry-after", "")
    wait = float(said) if re.fullmatch(r"\d{1,9}(\.\d*)?", said) else None
    return ApiError(note, billed=status in _PERHAPS_ANSWERED, wait=wait, status=status)


def _batch(found: MessageBatch) -> Batch:
    counts = found.request_counts
    total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
    return Batch(found.id, total, found.processing_status == "ended")
