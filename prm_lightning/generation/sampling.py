"""What every generator makes of sampling settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from prm_lightning.types import Prompt, Sampling


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings that no generator can follow.

    Raises:
        ValueError: one is out of its range.
    """
    if (
        sampling.n < 1
        or sampling.max_tokens < 1
        or sampling.temperature < 0
        or not 0 < sampling.top_p <= 1
        or "" in sampling.stop
    ):
        raise ValueError(
            f"generator: cannot sample with {sampling}; expected n >= 1, max_tokens >= 1, "
            "temperature >= 0, 0 < top_p <= 1 and no empty stop string."
        )


def seed_of(seed: int, prompt: Prompt, number: int) -> int:
    """A seed in [0, 2**63) for one completion, from the run's seed, the prompt and its number."""
    key = json.dumps([seed, *prompt, number]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it, all of it if there is none."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]
