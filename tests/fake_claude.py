"""A server on loopback that speaks the wire format of the Claude API, with faults.

    python tests/fake_claude.py --port 8123

answers until it is stopped. Its answers are a function of the request alone: the same body with
the same key gets the same bytes, however often and in whatever order it asks.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from loopback import serving

TRANSIENT = ("429", "429 wait", "529", "500", "cut before", "cut after", "cut body", "slow", "html")
BATCH_FAULTS = ("429", "500", "lost before", "lost after", "slow")
Body = dict[str, Any]
Reply = tuple[int, dict[str, str], Any]
ERRORS: dict[str | None, tuple[int, str, Body | None]] = {  # status, type, details
    "429": (429, "rate_limit_error", None),
    "429 wait": (429, "rate_limit_error", None),
    "spend limit": (429, "rate_limit_error", {"error_code": "enforced_spend_limit_reached"}),
    "529": (529, "overloaded_error", None),
    "500": (500, "api_error", None),
    "400": (400, "invalid_request_error", None),
    "401": (401, "authentication_error", None),
}
NO_ANSWER = {*ERRORS, "cut before", "lost before"}  # faults before anything is billed


def payload_of(body: Body) -> Any:
    """The JSON object inside the only message of a request."""
    return json.JSONDecoder().raw_decode(body["messages"][0]["content"])[0]


def chance(*told: Any) -> float:
    """In [0, 1), a function of what it is told."""
    return int(hashlib.sha256(repr(told).encode()).hexdigest()[:12], 16) / 16**12


def honest(body: Body, key: str) -> tuple[str, str]:
    """Stop reason and text: verdicts for steps, or a solution where none are given."""
    payload = payload_of(body)
    if "steps" not in payload:
        n = int(10 * chance(payload["problem"], key))
        steps = [f"First we look at what is asked ({n}).", f"So the answer is {n}."]
        return "end_turn", json.dumps({"steps": steps, "answer": str(n)})
    steps = [
        {
            "index": step["index"],
            "reason": f"Step {step['index']} was checked.",
            "verdict": verdict_of(payload["problem"], step["text"]),
        }
        for step in payload["steps"]
    ]
    return "end_turn", json.dumps({"steps": steps})


def verdict_of(problem: str, step: str) -> str:
    """What this server thinks of a step."""
    told = chance(problem, step)
    return "unsure" if told < 0.05 else "incorrect" if told < 0.35 else "Correct"


def clumsy(body: Body, key: str) -> tuple[str, str]:
    """Like `honest`, but often of no use: by key, so that another attempt may do better."""
    reason, text = honest(body, key)
    told = chance("clumsy", key)
    steps = json.loads(text).get("steps", [])
    answers = {
        "refusal": ("refusal", ""),
        "max_tokens": ("max_tokens", text[: len(text) // 2]),
        "malformed": (reason, text[:-9]),
        "not json": (reason, "I am sorry, here are my thoughts."),
        "missing": (reason, json.dumps({"steps": steps[:-1]})),
        "extra": (reason, json.dumps({"steps": [*steps, *steps[-1:]]})),
        "disorder": (reason, json.dumps({"steps": steps[::-1] + steps[:1]})),
    }
    return answers[sorted(answers)[int(told * 20)]] if told < 0.35 else (reason, text)


@dataclass
class FakeClaude:
    """The server and all it remembers; a context manager that serves."""

    answer: Callable[[Body, str], tuple[str, str]] = honest  # stop reason and text
    faults: Iterable[str | None] = ()  # of live requests, in the order they arrive
    batch_faults: Iterable[str | None] = ()  # of batch creations
    result_faults: Iterable[str | None] = ()  # of result downloads: ``cut`` or None
    entry_faults: Iterable[str | None] = ()  # ``expired``, ``errored``, ``canceled`` or None
    polls: int = 1  # how often a batch is still in progress
    retry_after: str = "0.02"  # of a 429 that names a time
    port: int = 0  # 0 takes a free one
    retired: set[str] = field(default_factory=set)  # models that are not served

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []  # of requests that ask for something
        self.asked: Counter[str] = Counter()  # by key
        self.usages: list[tuple[str, Body, bool]] = []  # all that was billed
        self.batches: dict[str, Body] = {}
        self._faults = {
            "live": iter(self.faults),
            "create": iter(self.batch_faults),
            "results": iter(self.result_faults),
            "entry": iter(self.entry_faults),
        }
        self.open = ExitStack()

    def __enter__(self) -> FakeClaude:
        self.loopback, self.url = self.open.enter_context(serving(self, self.port))
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    @property
    def calls(self) -> int:
        """Requests of any kind."""
        return len(self.loopback.requests)

    def __call__(self, path: str, body: Body | None, number: int) -> Reply | None:
        path = path.partition("?")[0]
        if body is None:
            return self.get(path)
        headers = self.loopback.requests[number][2]
        with self.lock:
            self.headers.append(headers)
        if path.startswith("/v1/messages/count_tokens"):
            return 200, {}, {"input_tokens": len(json.dumps(body)) // 4}
        if path.startswith("/v1/messages/batches"):
            fault = self.fault("create")
            if fault in NO_ANSWER:
                return self.trouble(fault)
            made = self.create(body["requests"])
            return None if fault == "lost after" else (200, {}, made)
        if body["model"] in self.retired:
            return error(404, "not_found_error", f"model: {body['model']}")
        fault = self.fault("live")
        if fault in NO_ANSWER:
            return self.trouble(fault)
        message = self.message(body, headers.get("idempotency-key", ""), batch=False)
        time.sleep(2.5 if fault == "slow" else 0)
        if fault == "cut body":
            return cut(json.dumps(message).encode())
        if fault == "html":
            return 200, {"content-type": "text/html"}, b"<html>a proxy's page</html>"
        return None if fault == "cut after" else (200, {}, message)

    def get(self, path: str) -> Reply:
        last = path.rpartition("/")[2]
        if path == "/v1/messages/batches":
            newest = [self.described(name) for name in sorted(self.batches, reverse=True)]
            return 200, {}, {"data": newest, "has_more": False, "first_id": None, "last_id": None}
        if path.endswith("/results"):
            rows = self.results(path.split("/")[-2])
            return cut(rows) if self.fault("results") == "cut" else (200, {}, rows)
        if last not in self.batches:
            return error(404, "not_found_error", f"nothing at {path}")
        self.batches[last]["polls"] -= 1
        return 200, {}, self.described(last)

    def trouble(self, fault: str | None) -> Reply | None:
        """What comes instead of an answer."""
        if fault not in ERRORS:
            return None
        status, kind, details = ERRORS[fault]
        wait = {"retry-after": self.retry_after} if fault == "429 wait" else {}
        return error(status, kind, f"{fault}, it says", details, wait)

    def fault(self, kind: str) -> str | None:
        with self.lock:
            return next(self._faults[kind], None)

    def message(self, body: Body, key: str, *, batch: bool) -> Body:
        """The answer, which is billed with this."""
        key = key[:40]  # as long as a name inside a batch may be: both ways get one answer
        reason, text = self.answer(body, key)
        size = len(json.dumps(body)) // 4
        usage = {
            "input_tokens": size - size // 2,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": size // 2,
            "output_tokens": min(len(text) // 4 + 1, body["max_tokens"]),
            "service_tier": "batch" if batch else "standard",
        }
        with self.lock:
            self.bodies.append(body)
            self.asked[key] += 1
            self.usages.append((body["model"], usage, batch))
        thought = {"type": "thinking", "thinking": "", "signature": "x"}
        content = [thought, {"type": "text", "text": text}] if text else []
        return {
            "id": f"msg_{hashlib.sha256(key.encode()).hexdigest()[:20]}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def create(self, entries: list[Body]) -> Body:
        name = f"msgbatch_{len(self.batches):06d}"
        faults = {entry["custom_id"]: self.fault("entry") for entry in entries}
        with self.lock:
            self.batches[name] = {"entries": entries, "faults": faults, "polls": self.polls}
        self.results(name)  # billed, whether somebody comes for it or not
        return self.described(name)

    def described(self, name: str) -> Body:
        batch = self.batches[name]
        ended = batch["polls"] <= 0
        counts = dict.fromkeys(("succeeded", "errored", "canceled", "expired", "processing"), 0)
        if ended:
            for entry in batch["entries"]:
                counts[batch["faults"][entry["custom_id"]] or "succeeded"] += 1
        else:
            counts["processing"] = len(batch["entries"])
        return {
            "id": name,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": "2026-11-21T00:00:00Z",
            "expires_at": "2026-11-22T00:00:00Z",
            "results_url": f"{self.url}/v1/messages/batches/{name}/results" if ended else None,
        }

    def results(self, name: str) -> bytes:
        """All rows, in another order than they were sent; the same ones at each call."""
        batch = self.batches[name]
        if "rows" not in batch:
            entries = sorted(batch["entries"], key=lambda e: chance(e["custom_id"]))
            rows = [self.row(entry, batch["faults"][entry["custom_id"]]) for entry in entries]
            batch["rows"] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        return batch["rows"]

    def row(self, entry: Body, fault: str | None) -> Body:
        result: Body = {"type": fault or "succeeded"}
        if fault == "errored":
            error = {"type": "api_error", "message": "Internal server error"}
            result["error"] = {"type": "error", "error": error}
        if fault is None:
            result["message"] = self.message(entry["params"], entry["custom_id"], batch=True)
        return {"custom_id": entry["custom_id"], "result": result}


def error(
    status: int, kind: str, message: str, details: Body | None = None, headers: Body | None = None
) -> Reply:
    said = {"type": kind, "message": message, "details": details}
    return status, headers or {}, {"type": "error", "error": said}


def cut(raw: bytes) -> Reply:
    """Half of a body."""
    return 200, {"content-length": str(len(raw))}, raw[: len(raw) // 2]


def label_in_child(url: str, args: list[str]) -> None:
    """Run `label` against a server, for a process that may be killed; exits as the door would."""
    from prm_lightning.labelling.label import main as label

    os.environ.update(ANTHROPIC_BASE_URL=url, ANTHROPIC_API_KEY="sk-ant-x", NO_PROXY="127.0.0.1")
    sys.stdout = sys.stderr = io.StringIO()
    try:
        label(args)
    except (ValueError, OSError):
        sys.exit(1)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8123)
    with FakeClaude(port=parser.parse_args().port) as fake:
        print(f"answering at {fake.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
