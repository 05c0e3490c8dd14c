"""The one door to the Claude API: one attempt at a time, raw bytes back, never the key in a text.

Nothing here tries again. The SDK's own retries could pay twice (it sends no idempotency key), so
they are off, and a caller that keeps a journal decides what happens next.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types.messages import MessageBatch

KEY_NAME = "ANTHROPIC_API_KEY"
_KEY = re.compile(r"sk-ant-[\x21-\x7e]+")
_KEY_IN_TEXT = re.compile(r"sk-ant-[^\s'\"\\]+")
_RETRIED = {408, 409, 429}
_REJECTED = {400, 413, 422}
_PERHAPS_ANSWERED = {408, 502, 504}  # of a gateway that did not wait for the answer behind it

T = TypeVar("T")
Then = Literal["retry", "reject", "stop"]


class Failure(NamedTuple):
    """An attempt without an answer.

    Args:
        then: ``retry`` may succeed later; ``reject``: this request never will; ``stop``: no
            request will, until a person has changed something.
        billed: whether it may have been billed all the same.
        note: one line, without the key.
        wait: seconds that the API asks to wait; None if it says nothing.
        status: of HTTP; 0 where there was no reply.
    """

    then: Then
    billed: bool
    note: str
    wait: float | None = None
    status: int = 0


class Batch(NamedTuple):
    """A Message Batch as the API describes it.

    Args:
        name: the API's id.
        requests: how many it holds.
        ended: whether its results are complete.
    """

    name: str
    requests: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Claude:
    """An API client that tells its caller what happened, and neither retries nor raises."""

    client: Anthropic

    def ask(self, params: Mapping[str, Any], key: str, timeout: float) -> bytes | Failure:
        """Send one request and return the answer's raw bytes.

        Args:
            params: of `messages.create`.
            key: of the request, sent along so that logs of both sides can be matched.
            timeout: seconds.
        """
        return _attempt(lambda: self._create(params, key, timeout))

    def _create(self, params: Mapping[str, Any], key: str, timeout: float) -> bytes:
        reply: Any = self.client.messages.with_raw_response.create(
            **params, timeout=timeout, extra_headers={"Idempotency-Key": key}
        )
        return bytes(reply.http_response.content)

    def count_tokens(self, params: Mapping[str, Any]) -> int | Failure:
        """Prompt tokens of a request; free of charge."""
        counted = {name: value for name, value in params.items() if name != "max_tokens"}
        return _attempt(lambda: self.client.messages.count_tokens(**counted).input_tokens)

    def lifecycle(self, model: str) -> str | Failure:
        """What the API says of a model: ``active``, ``deprecated`` or ``retired``; free."""
        return _attempt(lambda: str(self.client.models.retrieve(model).lifecycle))

    def create_batch(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> Batch | Failure:
        """Submit a Message Batch.

        Args:
            requests: pairs of `custom_id` and the params of `messages.create`.
        """
        entries: Any = [{"custom_id": name, "params": params} for name, params in requests]
        return _attempt(lambda: _batch(self.client.messages.batches.create(requests=entries)))

    def batch(self, name: str) -> Batch | Failure:
        """How far a batch is."""
        return _attempt(lambda: _batch(self.client.messages.batches.retrieve(name)))

    def newest_batches(self, most: int = 100) -> list[Batch] | Failure:
        """Of the key's workspace, newest first."""
        batches = self.client.messages.batches
        return _attempt(lambda: [_batch(found) for found in _page(batches.list(limit=most))])

    def download(self, batch: Batch, file: Path) -> Failure | None:
        """Write a batch's results as they come, and only if all rows came.

        Args:
            batch: that has ended.
            file: gets its name when it is complete.
        """
        return _attempt(lambda: self._download(batch, file))

    def _download(self, batch: Batch, file: Path) -> None:
        part = file.with_suffix(".part")
        url = str(self.client.messages.batches.retrieve(batch.name).results_url)
        base = str(self.client.base_url)
        if not url.startswith("/") and _host(url) != _host(base):  # it would be sent the key
            raise _UnusableError(
                f"results of {batch.name} are said to be at {_host(url)}, not at {base}"
            )
        with part.open("wb") as stream:
            with self.client.messages.batches.with_streaming_response.results(batch.name) as reply:
                for chunk in reply.iter_bytes():
                    stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        rows = sum(1 for line in read_lines(part))
        if rows != batch.requests:
            raise _UnusableError(
                f"results of {batch.name}: {rows} rows of {batch.requests}, cut off"
            )
        part.replace(file)


class _UnusableError(Exception):
    """A reply that cannot be what the API meant to send."""


def read_lines(file: Path) -> Iterator[bytes]:
    """The complete lines of a results file, those of valid JSON."""
    with file.open("rb") as stream:
        for line in stream:
            if not line.strip():
                continue
            try:
                json.loads(line)
            except ValueError:
                continue  # cut in the middle; the caller counts
            yield line


def connect(key: str, base_url: str | None = None) -> Claude:
    """A client for a checked key.

    Args:
        key: from `read_key`.
        base_url: of the API; None takes ANTHROPIC_BASE_URL, else the public one.
    """
    import anthropic

    client = anthropic.Anthropic(
        api_key=key, base_url=base_url, max_retries=0, open_telemetry=False
    )
    return Claude(client)


def read_key(environment: Mapping[str, str], dotenv: Path = Path(".env")) -> str:
    """The API key, from the environment or else a .env file, stripped.

    Raises:
        ValueError: there is none, or it does not look like one. The message never shows it.
    """
    key = _given_key(environment, dotenv)
    if not key:
        raise ValueError(
            f"{KEY_NAME} is not set: export it, or write {KEY_NAME}=... into {dotenv}. "
            "--dry_run works without."
        )
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{KEY_NAME} does not look like a key ({len(key)} characters): expected sk-ant- and "
            "printable ASCII without spaces. Copy it again."
        )
    return key


def has_key(environment: Mapping[str, str], dotenv: Path = Path(".env")) -> bool:
    """Whether `read_key` would find anything."""
    return bool(_given_key(environment, dotenv))


def _given_key(environment: Mapping[str, str], dotenv: Path) -> str:
    from dotenv import dotenv_values

    return (environment.get(KEY_NAME) or dotenv_values(dotenv).get(KEY_NAME) or "").strip()


def scrub(text: str) -> str:
    """A text without anything that looks like an API key."""
    return _KEY_IN_TEXT.sub("sk-ant-***", text)


def scrub_logs() -> None:
    """From now on no log record of this process shows a key, in message or traceback."""
    make = logging.getLogRecordFactory()
    if getattr(make, "scrubs", False):
        return

    def make_scrubbed(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.msg, record.args = scrub(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = scrub(logging.Formatter().formatException(record.exc_info))
        return record

    make_scrubbed.scrubs = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_scrubbed)


def _attempt(action: Callable[[], T]) -> T | Failure:
    """What the action returns, or the failure that its exception means."""
    import anthropic
    import httpx2

    try:
        return action()
    except anthropic.APIStatusError as error:
        return _refused(error)
    except anthropic.APIConnectionError as error:
        return Failure("retry", _may_be_sent(error), _note(error))
    except httpx2.HTTPError as error:  # a cut stream is no error of the SDK's own
        return Failure("retry", True, _note(error))
    except (anthropic.AnthropicError, json.JSONDecodeError, _UnusableError) as error:
        return Failure("retry", True, _note(error))  # a 200 that is no answer of this API


def _refused(error: Any) -> Failure:
    status, code = error.status_code, str(error.error_code or "")
    note = f"{status} {error.type or ''} {code}: {scrub(str(error.api_message or error))}"[:500]
    note = " ".join(note.split())
    broke = code.endswith("spend_limit_reached") or "credit balance" in note.lower()
    if status in _REJECTED and not broke and error.type != "billing_error":
        return Failure("reject", False, note, status=status)
    may_retry = status in _RETRIED or status >= 500
    if broke or not may_retry or error.response.headers.get("x-should-retry") == "false":
        return Failure("stop", False, note, status=status)
    wait = _retry_after(error.response.headers)
    return Failure("retry", status in _PERHAPS_ANSWERED, note, wait, status)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds >= 0, from a number or a date; None where there is none or it is unreadable."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        said = headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d*)?", said):
            return float(said) * unit
    try:
        then = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, then.timestamp() - time.time())


def _may_be_sent(error: BaseException) -> bool:
    """Whether a request can have reached the API: no, if no connection was made."""
    import httpx2

    never = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
    return not isinstance(error.__cause__, never)


def _note(error: BaseException) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return scrub(" ".join(f"{type(error).__name__}: {error}{cause}".split()))[:500]


def _page(found: Any) -> list[MessageBatch]:
    if not isinstance(getattr(found, "data", None), list):
        raise _UnusableError(f"a list of batches was expected, not {str(found)[:60]!r}")
    return list(found.data)


def _batch(found: MessageBatch) -> Batch:
    counts = getattr(found, "request_counts", None)
    if counts is None or not found.id:
        raise _UnusableError(f"a batch was expected, not {str(found)[:60]!r}")
    total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
    return Batch(found.id, total, found.processing_status == "ended")


def _host(url: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(url).netloc
