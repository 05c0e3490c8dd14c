"""One way to get a scorer: ours, a public one, or one on a vLLM server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qs, urldefrag

import httpx2
from openai import APIError, APIStatusError, APITimeoutError

from prm_lightning.batching.encode import Encoded
from prm_lightning.generation.prompts import is_url
from prm_lightning.generation.server import REFUSED, connect, what_failed
from prm_lightning.modeling.backbone import load_tokenizer
from prm_lightning.modeling.model_folder import (
    ADAPTER_CONFIG,
    MANIFEST,
    find_folder,
    load_encoder,
    read_manifest,
)
from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.step_model import Items, StepEncoder, require_steps
from prm_lightning.scoring.public_families import SUFFIXES, find_correct_label, read_config
from prm_lightning.scoring.public_model import find_public, load_public, make_encoder
from prm_lightning.types import Aggregation, ModelScorer, Unscorable

Endpoint = Literal["pooling", "classify"]

WHOLE = 2**26  # bytes; of larger files size and time are compared in place of the content
API_KEY = "VLLM_API_KEY"
PROBLEMS_AT_A_TIME = 64  # asked of a server together
HINTS = {
    401: f" Set {API_KEY}.",
    403: f" Set {API_KEY}.",
    404: " Start it with `vllm serve MODEL --runner pooling`.",
    501: " It runs another task: give the URL without an endpoint, or serve this one.",
}


def load_scorer(
    model: str, device: str | None = None, *, trust_remote_code: bool = False
) -> ModelScorer:
    """A scorer by its name.

    Args:
        model: a folder with prm.json (ours), or a step checkpoint of a run; the name of a model
            that comes with the package; a folder or Hub id of a public model that is known or
            recognised; a manifest file, see `PublicManifest`; or a server's URL and, after ``#``,
            the folder, id or manifest whose encoding it is given:
            ``http://localhost:8000#outputs/x/best_model``, with ``?model=NAME`` before the ``#``
            for one of several models of that server, such as an adapter.
        device: for a local model; None takes the first GPU if there is one, else the CPU.
        trust_remote_code: run Python code that comes with the model, or with the base model of one
            of ours; that of a public model only if `transformers` has none for it. No file can
            turn it on.

    Raises:
        ValueError: there is no such model, it is broken, or nothing says how it scores.
        OSError: a server does not answer.
    """
    if is_url(model):
        return _load_server(model, trust_remote_code)
    if our_folder(model) is not None:
        return PRM.from_pretrained(model, device, trust_remote_code=trust_remote_code)
    manifest, folder = find_public(model)
    return load_public(manifest, folder, device, trust_remote_code=trust_remote_code)


def our_folder(model: str) -> Path | None:
    """The folder or step checkpoint of a model of ours; None of a public one."""
    if Path(model).suffix == ".ckpt":
        return Path(model)
    folder = find_folder(model)
    return folder if (folder / MANIFEST).is_file() else None


def fingerprint(model: str) -> str:
    """32 hexadecimal digits that change when a model does.

    Of a server they are those of its URL and the model that it is given the encoding of, since
    nobody can see whether the server was given other weights.
    """
    digest = hashlib.sha256()
    if is_url(model):
        url, model = urldefrag(model)
        digest.update(url.encode())
    if Path(model).suffix in SUFFIXES and Path(model).is_file():
        digest.update(Path(model).read_bytes())
    place = our_folder(model) or find_public(model)[1]
    files = [place] if place.is_file() else place.iterdir()
    for file in sorted(path for path in files if path.is_file()):
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size} ".encode())
        content = str(stat.st_mtime_ns).encode() if stat.st_size > WHOLE else file.read_bytes()
        digest.update(content)
    return digest.hexdigest()[:32]


def _load_server(model: str, trust_remote_code: bool) -> ServerScorer:
    whole, folder = urldefrag(model)
    if not folder:
        raise ValueError(
            f"scorer: {model!r} does not say how its model reads solutions. Add the folder, Hub id "
            f"or manifest of that model after a #: {whole}#outputs/x/best_model."
        )
    url, _, query = whole.partition("?")
    served = next(iter(parse_qs(query).get("model", [])), None)
    name = f"{folder} at {whole}"
    if (ours := our_folder(folder)) is not None:
        own = read_manifest(ours)
        if own.head == "likelihood":
            raise ValueError(
                f"scorer: a server cannot score as {folder} does, which reads how likely the "
                "language model finds a step. Export it, serve the export, and give the folder of "
                f"the export after the #: {whole}#EXPORT."
            )
        encoder = load_encoder(ours, own, trust_remote_code=trust_remote_code)
        return ServerScorer(url, encoder, name, served, 1, own.aggregation, own.threshold)
    public, path = find_public(folder)
    if served is None and (path / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"scorer: {folder} is an adapter, and vLLM answers from an untrained head where a "
            f"request does not name it. Add its name on that server: {whole}?model=prm#{folder}."
        )
    correct = find_correct_label(public, read_config(path))
    tokens = make_encoder(load_tokenizer(str(path), None, trust_remote_code), public)
    return ServerScorer(url, tokens, name, served, correct, public.aggregation, public.threshold)


@dataclass(eq=False)
class ServerScorer:
    """Scores through `/pooling` (task `token_classify`) or `/classify` of a vLLM server.

    `/pooling` reads all steps of a solution in one request; `/classify` reads the last token of a
    prefix, one request per step, and uses the server's prefix cache. Tokens are sent, not text, so
    that the server reads what the model was trained on.

    Args:
        url: of the server, ``http://host:8000``. After it ``/pooling`` or ``/classify`` chooses
            the endpoint; without, the first that answers is taken.
        encoder: of the model that the server holds.
        name: for records.
        served: which of the server's models to ask, an adapter say; None asks the one it has.
        correct_label: column of P(correct) where the model has two labels.
        aggregation: how to make one score of a solution out of those of its steps.
        threshold: a step whose P(correct) is below it is flagged.
        timeout: seconds that a whole answer may take.
        attempts: how often a request is made before a failure counts, see `connect`.
        concurrency: requests that are open at a time.

    The environment variable VLLM_API_KEY, if set, is sent as the bearer token.
    """

    url: str
    encoder: StepEncoder
    name: str
    served: str | None = None
    correct_label: int = 1
    aggregation: Aggregation = "min"
    threshold: float = 0.5
    timeout: float = 60.0
    attempts: int = 4
    concurrency: int = 16

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        base, _, last = self.url.rpartition("/")
        self._endpoint: Endpoint | None = None
        if last in ("pooling", "classify"):
            self.url, self._endpoint = base, cast(Endpoint, last)
        self._client = connect(self.url, API_KEY, self.timeout, self.attempts)

    def score(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """P(correct) of every step of some solutions of one problem.

        Raises:
            Unscorable: the server refuses a solution, since it is too long for the model, say.
            OSError: the server is down, too slow, or fails again and again.
            ValueError: a blank step, or an answer that does not hold one score per step.
        """
        return next(self.score_all([(problem, solutions)]))

    def score_all(self, items: Items) -> Iterator[list[list[float]]]:
        """What `score` says of each problem and its solutions, in order."""
        for start in range(0, len(items), PROBLEMS_AT_A_TIME):
            yield from self._score_together(items[start : start + PROBLEMS_AT_A_TIME])

    def _score_together(self, items: Items) -> list[list[list[float]]]:
        pairs = [(problem, require_steps(steps)) for problem, several in items for steps in several]
        if not pairs:
            return [[] for _ in items]
        endpoint = self._endpoint = self._endpoint or self._find_endpoint()
        requests = [self._requests(path, endpoint) for path in self.encoder.encode_all(pairs)]
        unique = list(dict.fromkeys(one for several in requests for one in several))
        read = self._read_pooling if endpoint == "pooling" else self._read_classify
        with ThreadPoolExecutor(self.concurrency) as pool:  # after an error nothing more is asked
            scores = dict(zip(unique, pool.map(read, unique), strict=True))
        rows = iter([[s for one in several for s in scores[one]] for several in requests])
        return [[next(rows) for _ in solutions] for _, solutions in items]

    def _requests(self, path: Encoded, endpoint: Endpoint) -> list[Encoded]:
        """The requests for one solution: what each sends, and where in it scores are read."""
        branch = self.encoder.branch
        if endpoint == "pooling" and not branch:
            return [Encoded(path.input_ids[: path.step_positions[-1] + 1], path.step_positions)]
        prefixes = [path.input_ids[: position + 1] + branch for position in path.step_positions]
        return [Encoded(prefix, (len(prefix) - 1,)) for prefix in prefixes]

    def _find_endpoint(self) -> Endpoint:
        (probe,) = self.encoder.encode_all([("1 + 1?", ["2"])])
        try:
            self._ask_pooling(probe)
        except ValueError:  # it refuses, where an OSError would be a failure
            return "classify"
        return "pooling"

    def _read_pooling(self, path: Encoded) -> list[float]:
        """Scores from a server that gives a row for every token, or for every step end."""
        ids, positions = path.input_ids, path.step_positions
        rows = self._ask_pooling(path)
        if not isinstance(rows, list):
            raise self._wrong("no list of rows")
        if len(rows) == len(ids):
            return [self._probability(rows[position]) for position in positions]
        # In STEP mode there is a row for each step-end id, those inside the prompt included.
        tag = ids[positions[-1]]
        tagged = [i for i, token in enumerate(ids) if token == tag]
        if len(rows) != len(tagged) or not set(positions) <= set(tagged):
            raise self._wrong(
                f"{len(rows)} scores for {len(positions)} steps, whose ends are token {tag}. Serve "
                "the model whose encoding is used here, with --pooler-config "
                f'\'{{"tok_pooling_type":"STEP","step_tag_id":{tag}}}\''
            )
        row_of = dict(zip(tagged, rows, strict=True))
        return [self._probability(row_of[position]) for position in positions]

    def _read_classify(self, path: Encoded) -> list[float]:
        return [self._probability(self._ask("classify", path, "probs"))]

    def _ask_pooling(self, path: Encoded) -> Any:
        return self._ask("pooling", path, "data", task="token_classify")

    def _ask(self, endpoint: Endpoint, path: Encoded, field: str, **more: str) -> Any:
        """One field of the answer to one input, after as many attempts as it takes."""
        place = f"server: {self.url}/{endpoint}"
        body = {"input": list(path.input_ids), "use_activation": True, **more}
        if self.served is not None:
            body["model"] = self.served
        try:
            content = self._client.post(f"/{endpoint}", body=body, cast_to=httpx2.Response).content
        except APITimeoutError as error:
            raise TimeoutError(
                f"{place} gave no answer in {self.timeout:g} s, {self.attempts} times. It is "
                "overloaded or stuck: look at its log, or raise the timeout."
            ) from error
        except APIStatusError as error:
            status = error.status_code
            said = " ".join(error.response.text.split())[:300] or "(nothing)"
            if status in REFUSED:
                raise Unscorable(f"{place} refuses it: {said}") from error
            if status in (408, 409, 429) or (status >= 500 and status != 501):
                message = f"{place} answers {status}, {self.attempts} times: {said}"
                raise OSError(message) from error
            raise ValueError(f"{place} answers {status}: {said}{HINTS.get(status, '')}") from error
        except APIError as error:
            raise ConnectionError(
                f"{place}: the connection failed ({what_failed(error)}), {self.attempts} times. "
                "Start the server, or check the URL."
            ) from error
        try:
            (answer,) = json.loads(content)["data"]
            return answer[field]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"no {field} ({type(error).__name__}: {str(error)[:80]})"
            raise self._wrong(what) from error

    def _probability(self, row: Any) -> float:
        """P(correct) from one row: one number, or one for each label."""
        values = row if isinstance(row, list) else [row]
        if len(values) not in (1, 2):
            raise self._wrong(f"{len(values)} numbers per step, expected 1 or 2")
        if any(type(value) not in (int, float) or not 0 <= value <= 1 for value in values):
            raise self._wrong(f"{row!r:.80} in place of a probability")
        if len(values) == 2 and abs(sum(values) - 1) > 0.02:  # bfloat16 has 8 bits
            raise self._wrong(f"{row!r:.80} in place of two probabilities, whose sum is 1")
        return float(values[self.correct_label if len(values) == 2 else 0])

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"server: {self.url} ({self.name}) gives {what}.")
