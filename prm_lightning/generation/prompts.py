"""Prompts as a language model is given them, and what every generator makes of the settings."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prm_lightning.batching.encode import PLACEHOLDER, TEMPLATE_DATE, bos, render_chat
from prm_lightning.types import Prompt, Sampling

INSTRUCTION = (
    "Solve this problem step by step, with one step in each paragraph. "
    "Put the final answer in \\boxed{}."
)


def user_message(problem: str, instruction: str = INSTRUCTION) -> str:
    """What the user says: the problem, then a blank line and the instruction, if there is one.

    Raises:
        ValueError: the problem is blank.
    """
    if not problem.strip():
        raise ValueError("generator: a prompt's problem is blank, expected text.")
    return f"{problem.strip()}\n\n{instruction}" if instruction else problem.strip()


def is_url(name: str) -> bool:
    """Whether a model's name is that of a server, not of a folder or the Hub."""
    return name.startswith(("http://", "https://"))


def template_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a template's own text, whose special tokens are obeyed."""
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of user text, whose special tokens are plain text."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(encoded["input_ids"])


class PromptEncoder:
    """Token ids of prompts for one tokenizer.

    ``[chat template up to the user's message] + message + [up to the assistant's text] + begun``.
    What was begun is appended to the open assistant turn as it is: rendering it through a
    template would strip or rewrite it. Problems and solutions are plain text; special tokens in
    them are not obeyed. A tokenizer without a chat template gets BOS, if it adds one, the message
    and a newline.

    Args:
        tokenizer: of transformers.
        instruction: comes after every problem; empty for models trained on bare problems.
        template_options: for the chat template, such as ``{"enable_thinking": False}``.

    Raises:
        ValueError: the chat template does not show the user's message once.
    """

    def __init__(
        self,
        tokenizer: Any,
        instruction: str = INSTRUCTION,
        template_options: dict[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.instruction = instruction
        self._options = template_options or {}
        if tokenizer.chat_template:
            before, after = render_chat(tokenizer, **self._options)
            self._before, self._after = (template_ids(tokenizer, t) for t in (before, after))
        else:
            self._before, self._after = bos(tokenizer), plain_ids(tokenizer, "\n")

    def ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; see `user_message`."""
        message = plain_ids(self.tokenizer, user_message(prompt.problem, self.instruction))
        return [*self._before, *message, *self._after, *plain_ids(self.tokenizer, prompt.begun)]

    def end_ids(self) -> set[int]:
        """Ids that end the assistant's turn, as far as the tokenizer and its template say."""
        ends = {self.tokenizer.eos_token_id} - {None}
        if self.tokenizer.chat_template:
            turn = [{"role": "user", "content": "1"}, {"role": "assistant", "content": PLACEHOLDER}]
            options = {"date_string": TEMPLATE_DATE, **self._options}
            text = self.tokenizer.apply_chat_template(turn, tokenize=False, **options)
            after = template_ids(self.tokenizer, text.rpartition(PLACEHOLDER)[2])
            ends |= set(after[:1]) & set(self.tokenizer.all_special_ids)
        return ends


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings that no generator can follow.

    Raises:
        ValueError: one is out of its range.
    """
    is_possible = min(sampling.n, sampling.max_tokens) >= 1 and sampling.temperature >= 0
    if not is_possible or not 0 < sampling.top_p <= 1 or "" in sampling.stop:
        raise ValueError(
            f"generator: cannot sample with {sampling}; expected n >= 1, max_tokens >= 1, "
            "temperature >= 0, 0 < top_p <= 1 and no empty stop string."
        )


def numbered(prompts: Sequence[Prompt], count: int) -> list[tuple[Prompt, int]]:
    """Each prompt so many times in a row, with a number that tells it from those equal to it."""
    seen: Counter[Prompt] = Counter()
    samples = []
    for prompt in prompts:
        for _ in range(count):
            samples.append((prompt, seen[prompt]))
            seen[prompt] += 1
    return samples


def seed_of(seed: int, prompt: Prompt, number: int) -> int:
    """A seed in [0, 2**63) for one completion, from the run's seed, the prompt and its number."""
    key = json.dumps([seed, *prompt, number]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it, all of it if there is none."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]
