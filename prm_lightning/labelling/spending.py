"""What asking would cost: expected from what is known, and at most."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prm_lightning.generation.prices import Price, cost, worst_cost
from prm_lightning.labelling import verdicts
from prm_lightning.labelling.journal import Journal
from prm_lightning.labelling.request import Request
from prm_lightning.labelling.stored import canonical

CHARACTERS_PER_TOKEN = 3.0  # of a body in English and JSON; where nothing was counted
STEP_TOKENS = 40  # of a verdict with its reason
SOLUTION_TOKENS = 350  # of a written solution
SAMPLED = 50  # requests whose tokens the API is asked to count
ENOUGH_ANSWERS = 20  # from so many on their mean length is the estimate


@dataclass(slots=True)
class Estimate:
    """Of some requests.

    Args:
        model: that they go to.
        requests: how many.
        prompt_tokens: expected.
        answer_tokens: expected.
        expected: USD, live; a batch costs `batch_factor` of it. No cache hit is counted on.
        worst: USD, live; no less than it can be.
        batch_factor: of the model's price.
    """

    model: str
    requests: int = 0
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0
    expected: float = 0.0
    worst: float = 0.0
    batch_factor: float = 0.5

    def line(self, stage: str) -> str:
        """For a person."""
        batch = self.batch_factor
        return (
            f"{stage:6} {self.requests:7,} requests to {self.model}: about "
            f"{self.prompt_tokens / 1e6:.2f} M prompt and {self.answer_tokens / 1e6:.2f} M answer "
            f"tokens; ${self.expected * batch:.2f} in batches (at most ${self.worst * batch:.2f}), "
            f"${self.expected:.2f} live (at most ${self.worst:.2f})"
        )


def estimate(
    requests: Iterable[Request],
    prices: Mapping[str, Price],
    answer_tokens: Callable[[Request], float],
    characters_per_token: float = CHARACTERS_PER_TOKEN,
    times: float = 1.0,
) -> dict[str, Estimate]:
    """Sums by stage and model, such as ``judge claude-sonnet-5-5``.

    Args:
        requests: read once.
        prices: by model.
        answer_tokens: expected length of the answer to a request.
        characters_per_token: of a body.
        times: every request stands for so many.
    """
    found: dict[str, Estimate] = {}
    for request in requests:
        params = json.loads(request.settings)
        model, size = params["model"], len(request.settings) + len(canonical(request.user))
        price, prompt = prices[model], size / characters_per_token
        answer = min(answer_tokens(request), params["max_tokens"])
        usage = {"input_tokens": int(prompt), "output_tokens": int(answer)}
        of = found.setdefault(f"{request.stage} {model}", Estimate(model))
        of.batch_factor = price.batch_factor
        of.requests += round(times)
        of.prompt_tokens += times * prompt
        of.answer_tokens += times * answer
        of.expected += times * cost(price, usage, batch=False)
        of.worst += times * worst_cost(price, size, params["max_tokens"], batch=False)
    return found


def expected_answer(journal: Journal) -> Callable[[Request], float]:
    """Expected tokens of an answer: the mean of those received, else a rule of thumb."""
    rows = journal.table(
        "SELECT stage, COUNT(*), AVG(json_extract(usage, '$.output_tokens')) "
        "FROM sends JOIN requests USING (key) WHERE usage <> '{}' GROUP BY stage"
    )
    means = {stage: mean for stage, count, mean in rows if count >= ENOUGH_ANSWERS and mean}

    def expect(request: Request) -> float:
        if request.stage in means:
            return float(means[request.stage])
        return (
            20 + STEP_TOKENS * request.parts if request.stage == verdicts.STAGE else SOLUTION_TOKENS
        )

    return expect


def count_sample(
    requests: Iterable[Request], count: Callable[[Request], int | None]
) -> float | None:
    """Characters per token, from the first `SAMPLED` requests; None if counting fails.

    Args:
        requests: read as far as needed.
        count: prompt tokens of a request as the API counts them, None if it does not.
    """
    characters = tokens = 0
    for _, request in zip(range(SAMPLED), requests, strict=False):
        counted = count(request)
        if counted is None:
            return None
        tokens += counted
        characters += len(request.settings) + len(canonical(request.user))
    return characters / tokens if tokens else None
