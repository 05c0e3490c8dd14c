"""Raw bytes to outcomes, purely; and what is done about each outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from prm_lightning.generation.prices import Price, cost
from prm_lightning.labelling import verdicts, writing
from prm_lightning.labelling.journal import Parsed, Sent
from prm_lightning.labelling.request import Answer, Request
from prm_lightning.labelling.stored import canonical

READERS: dict[str, Callable[[Any, int], Answer]] = {
    verdicts.STAGE: verdicts.read_verdicts,
    writing.STAGE: writing.read_solution,
}
ATTEMPTS = 2
LONGEST_ANSWER = 32_000  # tokens; no doubling goes beyond

# What is done about an answer that is of no use. All others are final, and none becomes a label.
POLICY: dict[str, Literal["again", "longer"]] = {
    "malformed": "again",
    "wrong_steps": "again",
    "max_tokens": "longer",
}


def follow_up(request: Request, outcome: str) -> Request | None:
    """What to ask after an answer that was of no use; None where the matter ends."""
    policy = POLICY.get(outcome)
    if policy is None or request.attempt >= ATTEMPTS:
        return None
    settings = request.settings
    if policy == "longer":
        params = json.loads(settings)
        longer = min(LONGEST_ANSWER, 2 * params["max_tokens"])
        settings = canonical(params | {"max_tokens": longer})
    return replace(request, settings=settings, attempt=request.attempt + 1)


def reader(prices: Mapping[str, Price]) -> Callable[[Sent], Parsed]:
    """How raw answers are read and priced."""
    return lambda sent: _read(sent, prices)


def _read(sent: Sent, prices: Mapping[str, Price]) -> Parsed:
    try:
        found = json.loads(sent.raw)
        message = found["result"]["message"] if sent.batched else found
        usage, reason = message["usage"], message["stop_reason"]
        usd = cost(prices[json.loads(sent.request.settings)["model"]], usage, batch=sent.batched)
        texts = [block["text"] for block in message["content"] if block["type"] == "text"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Parsed(Answer("unreadable"), {}, None)  # no Message, such as a proxy's page
    return Parsed(_outcome(reason, "".join(texts), sent.request), usage, usd)


def _outcome(reason: Any, text: str, request: Request) -> Answer:
    if reason in ("refusal", "max_tokens"):
        return Answer(reason)
    if reason == "model_context_window_exceeded":
        return Answer("too_long")
    if reason != "end_turn":
        return Answer("malformed")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return Answer("malformed")
    return READERS[request.stage](content, request.parts)
