"""What a request to Claude may cost at most, and what an answer did cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).with_name("prices.yaml")
HIDDEN_TOKENS = 1000  # room for what the API adds to a prompt: the answer's schema, turn markup
IN_THE_US = 1.1  # times all prices where a request, or its workspace, asks for inference in the US


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
    """Prices by model: those shipped, overridden by those of a file of the same form.

    Raises:
        ValueError: the file has no `models`, or an entry lacks a price, has an unknown key, or
            a price that is no number >= 0.
        OSError: the file cannot be read.
    """
    return _read(SHIPPED) | (_read(Path(file)) if file else {})


def _read(file: Path) -> dict[str, Price]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
        raise ValueError(f"{file}: expected `models:` with one entry a model, as in {SHIPPED}.")
    prices = {}
    for model, entry in content["models"].items():
        try:
            prices[model] = Price(**{"batch_factor": content.get("batch_factor", 0.5)} | entry)
        except (TypeError, ValueError) as error:  # a missing, unknown or impossible entry
            said = str(error).removeprefix("Price.__init__() ")
            raise ValueError(f"{file}: model {model!r}: {said}.") from error
    return prices


def require_served(prices: Mapping[str, Price], model: str, today: date) -> None:
    """Refuse a model that must not be asked.

    Raises:
        ValueError: the model has no price, or is retired.
    """
    usable = {m: p for m, p in prices.items() if p.retires is None or today <= p.retires}
    if model not in prices:
        raise ValueError(
            f"model {model!r} has no price, so no budget could hold it; known are "
            f"{', '.join(sorted(usable))}. Add it to a file like {SHIPPED.name} and give that with "
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
