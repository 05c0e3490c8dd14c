"""A request to Claude and its answer, as the journal keeps them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from prm_lightning.labelling.stored import canonical


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask Claude, with what tells it from another that looks the same.

    Args:
        stage: what it is for, which decides how its answer is read.
        settings: canonical JSON of the API's parameters without `messages`, from `canonical`.
        user: text of the only message.
        parts: how many parts a complete answer has; 0 if any number will do.
        version: of the prompt and of the code that reads the answer.
        sample: from 1; several answers to the same words.
        attempt: from 1; asked once more after an answer that could not be used.
    """

    stage: str
    settings: str
    user: str
    parts: int
    version: str
    sample: int = 1
    attempt: int = 1

    @property
    def key(self) -> str:
        """Names the request for ever: 64 hexadecimal digits."""
        told = [digest(self.settings), self.user, self.version, self.sample, self.attempt]
        return hashlib.sha256(canonical([self.stage, *told]).encode()).hexdigest()

    @property
    def params(self) -> dict[str, Any]:
        """Of the API's `messages.create`."""
        settings: dict[str, Any] = json.loads(self.settings)
        return settings | {"messages": [{"role": "user", "content": self.user}]}


Priced = tuple[Request, float]  # with the most that it can cost, in USD


class Answer(NamedTuple):
    """What an answer turned out to be, and its value where that is of use."""

    outcome: str
    value: Any = None


@lru_cache(maxsize=64)
def digest(settings: str) -> str:
    """Names some settings in the journal."""
    return hashlib.sha256(settings.encode()).hexdigest()
