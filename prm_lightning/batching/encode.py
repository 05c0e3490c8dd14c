"""The only place where a problem and its steps become token ids.

In: texts. Out: `Encoded`, ids and the places where scores are read. Next: `tree.py`, in which the
solutions of a problem share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prm_lightning.text import fold_newlines

Template = Literal["chat", "plain", "guide"]

PLACEHOLDER = "PRMPROBLEMPLACEHOLDER"
# Llama 3 templates print today's date unless they are given one: the encoding of a solution must
# not change from one day to the next.
TEMPLATE_DATE = "26 Jul 2024"
GUIDE_PROMPT = ("### Question:\n", "\n\n### Partial Solution:\n")
GUIDE_BRANCH = "\n### Evaluate this step:\n"


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

    ``[prompt] + for each step: tokens(step) + [step_end_id]``. Every piece is tokenized on its own
    and the ids are concatenated, so that a step end never melts into the text before it and its
    index is known rather than searched for.

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
        self.step_end, self.step_end_id = _resolve_step_end(tokenizer, template, step_end)
        self._space_ids = self._ids_of(" ")
        self._before, self._after = self._prompt_parts()
        self.branch: tuple[int, ...] = ()
        if template == "guide":
            self.branch = tuple(self._ids_of(GUIDE_BRANCH))

    def fingerprint(self) -> str | None:
        """SHA-256, in hex, of everything that the ids of a text depend on here.

        Covers the tokenizer as ``tokenizer.json`` defines it, and template and step end by the ids
        that they come to. None where the tokenizer is Python code that comes with a model.
        """
        to_str = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "to_str", None)
        if to_str is None or not type(self.tokenizer).__module__.startswith("transformers."):
            return None
        definition = json.loads(to_str())
        for changed_by_calls in ("truncation", "padding"):  # and set anew by ours
            definition.pop(changed_by_calls, None)
        ends = (self.step_end, self.step_end_id, self._space_ids)
        parts = (definition, self.template, *ends, self._before, self._after, self.branch)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def encode(self, problem: str, steps: Sequence[str]) -> Encoded:
        """Token ids of one solution.

        Raises:
            ValueError: there is no step, or a step or the problem is blank.
        """
        return self.encode_all([(problem, steps)])[0]

    def encode_all(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[Encoded]:
        """Token ids of many solutions; every distinct text is tokenized once."""
        folded = [
            (fold_newlines(problem), [fold_newlines(step) for step in steps])
            for problem, steps in solutions
        ]
        for problem, steps in folded:
            _require_text(problem, steps)
        texts = list(dict.fromkeys(text for problem, steps in folded for text in (problem, *steps)))
        ids = dict(zip(texts, self._tokenize(texts), strict=True))
        return [
            self._join(ids[problem], [ids[step] for step in steps]) for problem, steps in folded
        ]

    def prompt_tokens(self, problem: str) -> int:
        """How many ids come before the first step."""
        (ids,) = self._tokenize([fold_newlines(problem)])
        return len(self._before) + len(ids) + len(self._after)

    def last_path(self, encoded: Encoded) -> Encoded:
        """What the model reads up to the score of the last step, branch included."""
        if not self.branch:
            return encoded
        ids = encoded.input_ids + self.branch
        return Encoded(ids, (len(ids) - 1,))

    def _join(self, problem: list[int], steps: list[list[int]]) -> Encoded:
        ids, positions = [*self._before, *problem, *self._after], []
        prompt_tokens = len(ids)
        for step in steps:
            ids += step
            positions.append(len(ids))
            ids.append(self.step_end_id)
        return Encoded(tuple(ids), tuple(positions), prompt_tokens)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Ids of user text: special tokens in it are plain text, step ends in it are spaces."""
        if not texts:
            return []
        rows: list[list[int]] = self._plain_ids(texts)
        for i, row in enumerate(rows):
            if self.step_end_id in row:
                spaced = self._plain_ids([texts[i].replace(self.step_end, " ")])[0]
                rows[i] = [
                    new
                    for old in spaced
                    for new in (self._space_ids if old == self.step_end_id else [old])
                ]
        return rows

    def _plain_ids(self, texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
        )
        return list(encoded["input_ids"])

    def _ids_of(self, template_text: str) -> list[int]:
        """Ids of a template's own text, the only one whose special tokens are obeyed."""
        if not template_text:
            return []
        return list(self.tokenizer.encode(template_text, add_special_tokens=False))

    def _prompt_parts(self) -> tuple[list[int], list[int]]:
        """Ids before and after the problem."""
        if self.template == "chat":
            before, after = render_chat(self.tokenizer)
            return self._ids_of(before), self._ids_of(after)
        before, after = GUIDE_PROMPT if self.template == "guide" else ("", "\n")
        return bos(self.tokenizer) + self._ids_of(before), self._ids_of(after)


def cut_between_steps(encoded: Encoded, max_tokens: int, branch: int = 0) -> Encoded:
    """As many whole steps as fit, each with `branch` more tokens after its step end.

    Returns:
        `encoded` itself if it fits; a result without steps if not even the first one does.
    """
    fits = sum(p + 1 + branch <= max_tokens for p in encoded.step_positions)
    return keep_steps(encoded, fits)


def keep_steps(encoded: Encoded, count: int) -> Encoded:
    """The first `count` steps; `encoded` itself if it has no more, nothing at all of none."""
    kept = encoded.step_positions[:count]
    if len(kept) == len(encoded.step_positions):
        return encoded
    ids = encoded.input_ids[: kept[-1] + 1] if kept else ()
    return Encoded(ids, kept, encoded.prompt_tokens)


def _resolve_step_end(tokenizer: Any, template: Template, step_end: str | None) -> tuple[str, int]:
    if template == "guide" and step_end not in (None, "\n"):
        raise ValueError(
            f"encode: got step_end={step_end!r}, but the template 'guide' ends every step with a "
            "newline. Leave data.step_end out, or take the template 'chat' or 'plain'."
        )
    default = ["\n"] if template == "guide" else ["\n\n", "\n"]
    candidates = [step_end] if step_end is not None else default
    for text in candidates:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == 1:
            return text, ids[0]
    raise ValueError(
        f"encode: step_end={candidates[-1]!r} is {len(ids)} tokens of this tokenizer "
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
    parts = text.split(PLACEHOLDER)
    if len(parts) != 2:
        raise ValueError(
            f"encode: the chat template of {tokenizer.name_or_path!r} shows the user's message "
            f"{len(parts) - 1} times, expected once. Take another tokenizer, or "
            "data.template 'plain' or 'guide'."
        )
    return parts[0], parts[1]


def bos(tokenizer: Any) -> list[int]:
    """The id that a tokenizer puts before every text, if it does."""
    ids = tokenizer.encode("x")
    return (
        [ids[0]] if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else []
    )


def _require_text(problem: str, steps: Sequence[str]) -> None:
    if not problem:
        raise ValueError("encode: the problem is blank, expected text.")
    if not steps:
        raise ValueError(
            f"encode: no steps for the problem {problem[:60]!r}, expected at least one."
        )
    for number, step in enumerate(steps, 1):
        if not step:
            raise ValueError(
                f"encode: step {number} of {len(steps)} is blank (problem {problem[:60]!r}), "
                "expected text. Leave blank steps out."
            )
