"""A process reward model on a vLLM server, as a scorer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import httpx2
from openai import APIError, APIStatusError, APITimeoutError

from prm_lightning.generation.server import REFUSED, connect, what_failed
from prm_lightning.modeling.step_model import Items, StepEncoder, Unscorable
from prm_lightning.types import Aggregation

Endpoint = Literal["pooling", "classify"]

API_KEY = "VLLM_API_KEY"
SOLUTIONS_AT_A_TIME = 256


class TokenPath(NamedTuple):
    """What one request sends and where in it scores are read.

    Args:
        ids: tokens that are sent.
        positions: index of each token whose score is wanted.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]


class ServerScorer:
    """Scores through `/pooling` (task `token_classify`) or `/classify` of a vLLM server.

    `/pooling` reads all steps of a solution in one request; `/classify` reads the last token of a
    prefix, one request a step, and uses the server's prefix cache. Tokens are sent, not text, so
    that the server reads what the model was trained on.

    Args:
        url: of the server, ``http://host:8000``. After it ``/pooling`` or ``/classify`` chooses
            the endpoint; without, the first that answers is taken.
        encoder: of the model that the server holds.
        name: for records.
        served: which of the server's models to ask, an adapter say; None asks the one it has.
        correct_label: column of P(correct) where the model has two labels.
        aggregation: how to make one score of a solution out of those of its steps.
        threshold: a step whose P(correct) lies below it is flagged.
        timeout: seconds that the server may take to begin an answer, and again to end it.
        attempts: how often a request is made before a failure counts, see `connect`.
        concurrency: requests that are open at a time.

    The environment variable VLLM_API_KEY, if set, is sent as the bearer token.
    """

    def __init__(
        self,
        url: str,
        encoder: StepEncoder,
        name: str,
        *,
        served: str | None = None,
        correct_label: int = 1,
        aggregation: Aggregation = "min",
        threshold: float = 0.5,
        timeout: float = 60.0,
        attempts: int = 4,
        concurrency: int = 16,
    ) -> None:
        self.url, self._endpoint = _split_endpoint(url.rstrip("/"))
        self.encoder = encoder
        self.name = name
        self.served = served
        self.correct_label = correct_label
        self.aggregation: Aggregation = aggregation
        self.threshold = threshold
        self.timeout = timeout
        self.attempts = attempts
        self.concurrency = concurrency
        self._client = connect(self.url, API_KEY, timeout, attempts)
        self._choosing = threading.Lock()

    def score(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """P(correct) of every step of some solutions of one problem.

        Raises:
            Unscorable: the server refuses a solution, since it is too long for the model, say.
            OSError: the server is down, too slow, or fails again and again.
            ValueError: a blank step, or an answer that does not hold one score a step.
        """
        return next(self.score_all([(problem, solutions)]))

    def score_all(self, items: Items) -> Iterator[list[list[float]]]:
        """What `score` says of each problem and its solutions, in order."""
        start = 0
        while start < len(items):
            end, solutions = start, 0
            while end < len(items) and solutions < SOLUTIONS_AT_A_TIME:
                solutions += len(items[end][1])
                end += 1
            yield from self._score_window(items[start:end])
            start = end

    def _score_window(self, items: Items) -> list[list[list[float]]]:
        pairs = [(problem, steps) for problem, solutions in items for steps in solutions]
        if not pairs:
            return [[] for _ in items]
        endpoint = self._choose_endpoint()
        encoded = self.encoder.encode_all(pairs)
        wanted = [self._paths(e.input_ids, e.step_positions, endpoint) for e in encoded]
        unique = list(dict.fromkeys(path for paths in wanted for path in paths))
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            read = self._read_pooling if endpoint == "pooling" else self._read_classify
            scores = dict(zip(unique, pool.map(read, unique), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nothing more is asked
        rows = iter([[s for path in paths for s in scores[path]] for paths in wanted])
        return [[next(rows) for _ in solutions] for _, solutions in items]

    def _paths(
        self, ids: tuple[int, ...], positions: tuple[int, ...], endpoint: Endpoint
    ) -> list[TokenPath]:
        """The requests for one solution."""
        branch = self.encoder.branch
        if endpoint == "pooling" and not branch:
            return [TokenPath(ids[: positions[-1] + 1], positions)]
        prefixes = [ids[: position + 1] + branch for position in positions]
        return [TokenPath(prefix, (len(prefix) - 1,)) for prefix in prefixes]

    def _choose_endpoint(self) -> Endpoint:
        with self._choosing:
            if self._endpoint is None:
                (probe,) = self.encoder.encode_all([("1 + 1?", ["2"])])
                body = _pooling_body(probe.input_ids)
                try:
                    self._post("pooling", body)
                    self._endpoint = "pooling"
                except APIStatusError as error:
                    if _passes(error.status_code):
                        raise self._failure("pooling", error) from error
                    self._endpoint = "classify"
            return self._endpoint

    def _read_pooling(self, path: TokenPath) -> list[float]:
        """Scores from a server that gives a row for every token, or for every step end."""
        rows = self._ask("pooling", _pooling_body(path.ids), "data")
        if not isinstance(rows, list):
            raise ValueError(self._wrong("pooling", "no list of rows"))
        if len(rows) == len(path.ids):
            return [self._probability(rows[position]) for position in path.positions]
        # In STEP mode there is a row for each step-end id, those inside the prompt included.
        tag = path.ids[path.positions[-1]]
        tagged = [i for i, token in enumerate(path.ids) if token == tag]
        if len(rows) != len(tagged) or not set(path.positions) <= set(tagged):
            found = f"{len(rows)} scores for {len(path.positions)} steps"
            setting = f'{{"tok_pooling_type":"STEP","step_tag_id":{tag}}}'
            raise ValueError(
                self._wrong("pooling", f"{found}, whose ends are token {tag}")
                + f" Serve the model whose encoding is used here, with --pooler-config '{setting}'."
            )
        row_of = dict(zip(tagged, rows, strict=True))
        return [self._probability(row_of[position]) for position in path.positions]

    def _read_classify(self, path: TokenPath) -> list[float]:
        body = {"input": list(path.ids), "use_activation": True}
        return [self._probability(self._ask("classify", body, "probs"))]

    def _ask(self, endpoint: Endpoint, body: dict[str, Any], field: str) -> Any:
        """One field of the answer to one input."""
        try:
            content = self._post(endpoint, body)
        except APIStatusError as error:
            raise self._failure(endpoint, error) from error
        try:
            (answer,) = json.loads(content)["data"]
            return answer[field]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"no {field} ({type(error).__name__}: {str(error)[:80]})"
            raise ValueError(self._wrong(endpoint, what)) from error

    def _post(self, endpoint: Endpoint, body: dict[str, Any]) -> bytes:
        """The content of the answer, after as many attempts as it takes."""
        body = body if self.served is None else {"model": self.served} | body
        try:
            return self._client.post(f"/{endpoint}", body=body, cast_to=httpx2.Response).content
        except APITimeoutError as error:
            raise TimeoutError(
                f"server: {self.url}/{endpoint} gave no answer in {self.timeout:g} s, "
                f"{self.attempts} times. It is overloaded or stuck: look at its log, or raise the "
                "timeout."
            ) from error
        except APIStatusError:
            raise
        except APIError as error:
            raise ConnectionError(
                f"server: the connection to {self.url}/{endpoint} failed ({what_failed(error)}), "
                f"{self.attempts} times. Start the server, or check the URL."
            ) from error

    def _failure(self, endpoint: Endpoint, error: APIStatusError) -> Exception:
        """What a status says: of the solution, of the server for now, or of what it serves."""
        place, status = f"{self.url}/{endpoint}", error.status_code
        said = " ".join(error.response.text.split())[:300] or "(nothing)"
        if status in REFUSED:
            return Unscorable(f"server: {place} refuses it: {said}")
        if status in (408, 409, 429) or (status >= 500 and status != 501):
            return OSError(f"server: {place} answers {status}, {self.attempts} times: {said}")
        hint = {
            401: f"Set {API_KEY}.",
            403: f"Set {API_KEY}.",
            404: "Start it with `vllm serve MODEL --runner pooling`.",
            501: "It runs another task: give the URL without an endpoint, or serve this one.",
        }.get(status, "")
        return ValueError(f"server: {place} answers {status}: {said} {hint}".rstrip())

    def _probability(self, row: Any) -> float:
        """P(correct) from one row: one number, or one a label."""
        values = row if isinstance(row, list) else [row]
        if len(values) not in (1, 2):
            raise ValueError(self._wrong("", f"{len(values)} numbers a step, expected 1 or 2"))
        value = values[self.correct_label if len(values) == 2 else 0]
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError(self._wrong("", f"{value!r} in place of a probability"))
        return float(value)

    def _wrong(self, endpoint: str, what: str) -> str:
        return f"server: {self.url}/{endpoint}".rstrip("/") + f" ({self.name}) gives {what}."


def _split_endpoint(url: str) -> tuple[str, Endpoint | None]:
    head, _, last = url.rpartition("/")
    if last == "pooling" or last == "classify":
        return head, "pooling" if last == "pooling" else "classify"
    return url, None


def _pooling_body(ids: tuple[int, ...]) -> dict[str, Any]:
    return {"input": list(ids), "task": "token_classify", "use_activation": True}


def _passes(status: int) -> bool:
    """Whether a status says something of the server for now; 501 is another task's for good."""
    return status in (408, 409, 429) or (status >= 500 and status != 501)
