"""The only place where a problem and its steps become token ids.

In: texts. Out: `Encoded`, ids and the places where scores are read. Next: `tree.py`, in which the
solutions of a problem share what they have in common.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prm_lightning.files import digest
from prm_lightning.text import GUIDE_BRANCH, GUIDE_PROMPT, fold_newlines

Template = Literal["chat", "plain", "guide"]

PLACEHOLDER = "PRMPROBLEMPLACEHOLDER"
# Llama 3 templates print today's date unless they are given one: the encoding of a solution must
# not change from one day to the next.
TEMPLATE_DATE = "26 Jul 2024"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a solution and where in them its scores are read.

    Args:
        input_ids: prompt, then the tokens of every step, each followed by the step-end id.
        step_positions: index into `input_ids` of every step end, one a step, increasing.
        prompt_tokens: how many of `input_ids` come before the first step.
    """

    input_ids: tuple[int, ...]
    step_positions: tuple[int, ...]
    prompt_tokens: int = 0


class Encoder:
    """Turns problems and steps into token ids, one tokenizer, template and step end for all.

    ``[prompt] + for each step: tokens(step) + [step_end_id]``. Every piece is tokenized on its own,
    so that a step end never melts into the text before it and its index is known.

    Args:
        tokenizer: of transformers.
        template: `chat` renders the tokenizer's chat template with the assistant's turn left open;
            `plain` is the problem and a newline, after a BOS if the tokenizer adds one; `guide` is
            a question, a partial solution and, after every step, a branch that asks for the
            verdict, in which the score is read.
        step_end: a string that encodes to one id. None takes ``\\n\\n`` where that is one id,
            else ``\\n``; `guide` always takes ``\\n``.

    Raises:
        ValueError: the step end is not one token, or the tokenizer has no chat template.
    """

    def __init__(
        self, tokenizer: Any, template: Template = "chat", step_end: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.template: Template = template
        self.step_end, self.step_end_id = _find_step_end(tokenizer, template, step_end)
        self._space_ids = self._ids_of(" ")
        before, after = render_chat(tokenizer) if template == "chat" else ("", "\n")
        self.branch: tuple[int, ...] = ()
        if template == "guide":
            before, after = GUIDE_PROMPT
            self.branch = tuple(self._ids_of(GUIDE_BRANCH))
        own_bos = [] if template == "chat" else bos(tokenizer)
        self._before, self._after = own_bos + self._ids_of(before), self._ids_of(after)

    @cached_property
    def digits(self) -> NDArray[np.bool_]:
        """``(V,)``, which tokens of the vocabulary hold one of the digits 0 to 9."""
        tokens = map(str, self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer))))
        return np.array([bool(re.search("[0-9]", t)) and t[:3] != "<0x" for t in tokens])

    def _ids_of(self, template_text: str) -> list[int]:
        """Ids of a template's own text, the only one whose special tokens are obeyed."""
        return list(self.tokenizer.encode(template_text, add_special_tokens=False))

    def fingerprint(self) -> str | None:
        """SHA-256, in hex, of everything that the ids of a text depend on here: the tokenizer as
        ``tokenizer.json`` defines it, and the ids of template and step end. None where the
        tokenizer is Python code that comes with a model.
        """
        to_str = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "to_str", None)
        if to_str is None or not type(self.tokenizer).__module__.startswith("transformers."):
            return None
        definition = json.loads(to_str())
        for changed_by_calls in ("truncation", "padding"):  # and set anew by ours
            definition.pop(changed_by_calls, None)
        ends = (self.step_end, self.step_end_id, self._space_ids)
        return digest(repr((definition, *ends, self._before, self._after, self.branch)))

    def encode(self, problem: str, steps: Sequence[str]) -> Encoded:
        """Token ids of one solution.

        Raises:
            ValueError: there is no step, or a step or the problem is blank.
        """
        return self.encode_all([(problem, steps)])[0]

    def encode_all(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[Encoded]:
        """Token ids of many solutions; every distinct text is tokenized once."""
        folded = [[fold_newlines(text) for text in (p, *steps)] for p, steps in solutions]
        for texts in folded:
            _require_text(*texts)
        ids = self._tokenize(list(dict.fromkeys(text for texts in folded for text in texts)))
        encoded = []
        for problem, *steps in folded:
            joined, positions = [*self._before, *ids[problem], *self._after], []
            prompt_tokens = len(joined)
            for step in steps:
                joined += ids[step]
                positions.append(len(joined))
                joined.append(self.step_end_id)
            encoded.append(Encoded(tuple(joined), tuple(positions), prompt_tokens))
        return encoded

    def last_path(self, encoded: Encoded) -> Encoded:
        """What the model reads up to the score of the last step, branch included."""
        if not self.branch:
            return encoded
        ids = encoded.input_ids + self.branch
        return Encoded(ids, (len(ids) - 1,))

    def _tokenize(self, texts: list[str]) -> dict[str, list[int]]:
        """Ids of user texts: special tokens in them are plain text, step ends are spaces."""
        ids = dict(zip(texts, self._plain_ids(texts), strict=True))
        for text in texts:
            if self.step_end_id in ids[text]:
                (spaced,) = self._plain_ids([text.replace(self.step_end, " ")])
                pieces = (self._space_ids if t == self.step_end_id else [t] for t in spaced)
                ids[text] = [token for piece in pieces for token in piece]
        return ids

    def _plain_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        options = {"split_special_tokens": True, "return_attention_mask": False}
        return list(self.tokenizer(texts, add_special_tokens=False, **options)["input_ids"])


def cut_between_steps(encoded: Encoded, max_tokens: int, branch: int = 0) -> Encoded:
    """As many whole steps as fit, see `keep_steps`, with `branch` more tokens after each."""
    fits = sum(p + 1 + branch <= max_tokens for p in encoded.step_positions)
    return keep_steps(encoded, fits)


def keep_steps(encoded: Encoded, count: int) -> Encoded:
    """The first `count` steps; `encoded` itself if it has no more, nothing at all of none."""
    kept = encoded.step_positions[:count]
    if len(kept) == len(encoded.step_positions):
        return encoded
    ids = encoded.input_ids[: kept[-1] + 1] if kept else ()
    return Encoded(ids, kept, encoded.prompt_tokens)


def _find_step_end(tokenizer: Any, template: Template, step_end: str | None) -> tuple[str, int]:
    if template == "guide" and step_end not in (None, "\n"):
        raise ValueError(
            f"encode: got step_end={step_end!r}, but the template 'guide' ends every step with a "
            "newline. Leave data.step_end out, or take the template 'chat' or 'plain'."
        )
    default = ["\n"] if template == "guide" else ["\n\n", "\n"]
    for text in default if step_end is None else [step_end]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == 1:
            return text, ids[0]
    raise ValueError(
        f"encode: step_end={text!r} is {len(ids)} tokens of this tokenizer "
        f"({tokenizer.name_or_path!r}), expected exactly one. Set data.step_end to a string "
        "that is a single token, such as one of its spare special tokens."
    )


def render_chat(tokenizer: Any, **options: Any) -> tuple[str, str]:
    """What a tokenizer's chat template writes before and after the user's message.

    Args:
        tokenizer: of transformers.
        options: for the template, such as ``enable_thinking=False``.

    Raises:
        ValueError: there is no template, or it does not show the message once.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"encode: the tokenizer {tokenizer.name_or_path!r} has no chat template. "
            "Set data.template to 'plain' or 'guide'."
        )
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": PLACEHOLDER}],
        tokenize=False,
        add_generation_prompt=True,
        **{"date_string": TEMPLATE_DATE, **options},
    )
    before, *after = text.split(PLACEHOLDER)
    if len(after) != 1:
        raise ValueError(
            f"encode: the chat template of {tokenizer.name_or_path!r} shows the user's message "
            f"{len(after)} times, expected once. Take another tokenizer, or data.template 'plain' "
            "or 'guide'."
        )
    return before, after[0]


def bos(tokenizer: Any) -> list[int]:
    """The id that a tokenizer puts before every text, if it does."""
    first: list[int] = tokenizer.encode("x")[:1]
    return first if first == [tokenizer.bos_token_id] else []


def _require_text(problem: str, *steps: str) -> None:
    if not problem:
        raise ValueError("encode: the problem is blank, expected text.")
    if not steps or "" in steps:
        what = "there are no steps"
        if steps:
            what = f"step {steps.index('') + 1} of {len(steps)} is blank"
        raise ValueError(
            f"encode: {what} (problem {problem[:60]!r}), expected at least one step, each with "
            "text. Leave blank steps out."
        )
