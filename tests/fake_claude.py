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
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TRANSIENT = ("429", "429 wait", "529", "500", "cut before", "cut after", "cut body", "slow", "html")
BATCH_FAULTS = ("429", "500", "lost before", "lost after", "slow")
Body = dict[str, Any]
ERRORS: dict[str | None, tuple[int, str, Body | None]] = {  # status, type, details
    "429": (429, "rate_limit_error", None),
    "429 wait": (429, "rate_limit_error", None),
    "spend limit": (429, "rate_limit_error", {"error_code": "enforced_spend_limit_reached"}),
    "529": (529, "overloaded_error", None),
    "500": (500, "api_error", None),
    "400": (400, "invalid_request_error", None),
    "401": (401, "authentication_error", None),
}


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
    remember: bool = True  # bodies, headers and what was billed
    retired: set[str] = field(default_factory=set)  # models that are not served

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.asked: Counter[str] = Counter()  # by key
        self.calls = 0  # of any kind
        self.usages: list[tuple[str, Body, bool]] = []  # all that was billed
        self.batches: dict[str, Body] = {}
        self._faults = {
            "live": iter(self.faults),
            "create": iter(self.batch_faults),
            "results": iter(self.result_faults),
            "entry": iter(self.entry_faults),
        }
        server = self

        class Handler(_Handler):
            fake = server

        self.httpd = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def __enter__(self) -> FakeClaude:
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()

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
            if self.remember:
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


class _Handler(BaseHTTPRequestHandler):
    fake: FakeClaude
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):  # a client was killed
            self.close_connection = True

    def do_GET(self) -> None:
        fake, path = self.fake, self.path.partition("?")[0]
        with fake.lock:
            fake.calls += 1
        last = path.rpartition("/")[2]
        if path == "/v1/messages/batches":
            newest = [fake.described(name) for name in sorted(fake.batches, reverse=True)]
            self.reply(200, {"data": newest, "has_more": False, "first_id": None, "last_id": None})
        elif path.endswith("/results"):
            rows = fake.results(path.split("/")[-2])
            self.send_raw(rows, cut=fake.fault("results") == "cut")
        elif last in fake.batches:
            fake.batches[last]["polls"] -= 1
            self.reply(200, fake.described(last))
        else:
            self.error(404, "not_found_error", f"nothing at {path}")

    def do_POST(self) -> None:
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with fake.lock:
            fake.calls += 1
            if fake.remember:
                fake.headers.append(dict(self.headers))
        if self.path.startswith("/v1/messages/count_tokens"):
            self.reply(200, {"input_tokens": len(json.dumps(body)) // 4})
        elif self.path.startswith("/v1/messages/batches"):
            self.create_batch(body)
        elif body["model"] in fake.retired:
            self.error(404, "not_found_error", f"model: {body['model']}")
        elif not self.trouble(fault := fake.fault("live")):
            message = fake.message(body, self.headers["idempotency-key"] or "", batch=False)
            if fault == "cut after":
                self.hang_up()
            elif fault == "cut body":
                self.send_raw(json.dumps(message).encode(), cut=True)
            elif fault == "html":
                self.send_raw(b"<html>a proxy's page</html>", kind="text/html")
            else:
                time.sleep(2.5 if fault == "slow" else 0)
                self.reply(200, message)

    def create_batch(self, body: Body) -> None:
        fault = self.fake.fault("create")
        if fault == "lost before":
            self.hang_up()
        elif not self.trouble(fault):
            made = self.fake.create(body["requests"])
            self.hang_up() if fault == "lost after" else self.reply(200, made)

    def trouble(self, fault: str | None) -> bool:
        """Reply with a fault that comes instead of an answer."""
        if fault == "cut before":
            self.hang_up()
        elif fault in ERRORS:
            status, kind, details = ERRORS[fault]
            wait = {"retry-after": self.fake.retry_after} if fault == "429 wait" else None
            self.error(status, kind, f"{fault}, it says", wait, details)
        else:
            return False
        return True

    def error(
        self,
        status: int,
        kind: str,
        message: str,
        headers: dict[str, str] | None = None,
        details: Body | None = None,
    ) -> None:
        error = {"type": kind, "message": message, "details": details}
        self.reply(status, {"type": "error", "error": error}, headers)

    def reply(self, status: int, content: Body, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def send_raw(self, raw: bytes, *, cut: bool = False, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if cut else raw)
        if cut:
            self.hang_up()

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True


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
    parser.add_argument("--forget", action="store_true", help="do not keep the requests")
    options = parser.parse_args()
    with FakeClaude(port=options.port, remember=not options.forget) as fake:
        print(f"answering at {fake.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
