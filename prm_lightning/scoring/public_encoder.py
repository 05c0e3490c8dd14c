"""How the tokens of public process reward models are built, each layout as its authors do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

from prm_lightning.batching.encode import PLACEHOLDER, TEMPLATE_DATE, Encoded, Encoder, Template
from prm_lightning.modeling.step_model import StepEncoder, Unscorable
from prm_lightning.scoring.public_families import PublicManifest


def make_encoder(tokenizer: Any, manifest: PublicManifest) -> StepEncoder:
    """The encoder that a manifest's layout asks for."""
    ours, _, template = manifest.layout.partition("prm-")
    if ours:
        return PublicEncoder(tokenizer, manifest)
    return Encoder(tokenizer, cast(Template, template), manifest.step_end)


class PublicEncoder:
    """Builds the tokens of a public model as its manifest says.

    Problem and steps are stripped; special tokens in them are plain text.

    Args:
        tokenizer: of the model.
        manifest: see `PublicManifest`.
    """

    branch: tuple[int, ...] = ()

    def __init__(self, tokenizer: Any, manifest: PublicManifest) -> None:
        self.tokenizer = tokenizer
        self.manifest = manifest
        self._end = self._template_ids(manifest.step_end)
        if not self._end:
            raise ValueError(
                f"scorer: step_end={manifest.step_end!r} of {manifest.model!r} is no token of its "
                "tokenizer. Set step_end in its manifest."
            )
        self._layouts: dict[str, Callable[[str, list[str]], Encoded]] = {
            "pieces": self._pieces,
            "text": self._text,
            "chat": self._chat,
            "turns": self._turns,
        }
        self._render = lru_cache(maxsize=64)(self._render_chat)
        self._plain_ids = lru_cache(maxsize=8192)(self._tokenize_plain)

    @property
    def step_end_id(self) -> int:
        """The last token of a step's end."""
        return self._end[-1]

    def encode_all(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[Encoded]:
        """Token ids of solutions, up to where the score of the last step is read.

        Raises:
            Unscorable: a step end cannot be told from the text around it.
            ValueError: there is no step, or a step or the problem is blank.
        """
        encode = self._layouts[self.manifest.layout]
        return [encode(*self._filled_in(problem, steps)) for problem, steps in solutions]

    def _filled_in(self, problem: str, steps: Sequence[str]) -> tuple[str, list[str]]:
        """Prompt and steps in the words of the manifest."""
        if not problem.strip() or not steps or not all(step.strip() for step in steps):
            raise ValueError(
                f"encode: expected a problem and at least one step, none of them blank, got the "
                f"problem {problem[:60]!r} and {len(steps)} steps. Leave blank steps out."
            )
        filled = []
        for number, step in enumerate(map(str.strip, steps), 1):
            before, _, after = self.manifest.step.partition("{step}")
            before = before.replace("{number}", str(number))
            filled.append(step if before and step.startswith(before) else before + step + after)
        return self.manifest.prompt.replace("{problem}", problem.strip()), filled

    def _pieces(self, prompt: str, steps: list[str]) -> Encoded:
        bos = self.tokenizer.bos_token_id
        ids = ([] if bos is None else [bos]) + self._plain_ids(prompt)
        return self._with_steps(ids, steps)

    def _chat(self, prompt: str, steps: list[str]) -> Encoded:
        before, inside, _ = self._render(1)
        ids = [*before, *self._plain_ids(prompt), *inside]
        return self._with_steps(ids, steps)

    def _with_steps(self, ids: list[int], steps: list[str]) -> Encoded:
        positions = []
        for step in steps:
            ids = [*ids, *self._plain_ids(step), *self._end]
            positions.append(len(ids) - 1)
        return Encoded(tuple(ids), tuple(positions))

    def _turns(self, prompt: str, steps: list[str]) -> Encoded:
        parts = self._render(len(steps))
        texts = [prompt + steps[0], *steps[1:]]
        ids: list[int] = []
        positions = []
        for turn, text in enumerate(texts):
            ids += [*(parts[2 * turn]), *self._plain_ids(text), *parts[2 * turn + 1]]
            positions.append(len(ids) - 1)
            ids += self._end
        return Encoded(tuple(ids[: positions[-1] + 1]), tuple(positions))

    def _text(self, prompt: str, steps: list[str]) -> Encoded:
        end = self.manifest.step_end
        cleaned = [text.replace(end.strip() or end, " ") for text in (prompt, *steps)]
        for begun, *texts in ((prompt, *steps), cleaned):  # cleaned of step ends of their own
            text = begun + self.manifest.between.join(step + end for step in texts)
            ids = self.tokenizer(text, split_special_tokens=True)["input_ids"]
            positions = [i for i, token in enumerate(ids) if token == self.step_end_id]
            if len(positions) == len(steps):
                return Encoded(tuple(ids[: positions[-1] + 1]), tuple(positions))
        raise Unscorable(
            f"encode: {len(steps)} steps became {len(positions)} step ends {end!r} (token "
            f"{self.step_end_id}) of {self.manifest.model!r} (problem {prompt[:60]!r}); the "
            "tokenizer joins it with the text around it."
        )

    def _render_chat(self, turns: int) -> list[list[int]]:
        """Ids of the chat template's own text: before, between and after what is filled in."""
        system = self.manifest.system
        messages = [{"role": "system", "content": system}] if system else []
        for _ in range(turns):
            messages += [{"role": role, "content": PLACEHOLDER} for role in ("user", "assistant")]
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"scorer: the tokenizer of {self.manifest.model!r} has no chat template, which the "
                f"layout {self.manifest.layout!r} needs. Take another layout in its manifest."
            )
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, date_string=TEMPLATE_DATE
        )
        parts = text.split(PLACEHOLDER)
        if len(parts) != 2 * turns + 1:
            raise ValueError(
                f"scorer: the chat template of {self.manifest.model!r} shows {len(parts) - 1} of "
                f"{2 * turns} messages. Take another layout in its manifest."
            )
        return [self._template_ids(part) for part in parts]

    def _template_ids(self, text: str) -> list[int]:
        """Ids of a template's own text, whose special tokens are obeyed."""
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _tokenize_plain(self, text: str) -> list[int]:
        """Ids of user text, whose special tokens are plain text."""
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(encoded["input_ids"])
