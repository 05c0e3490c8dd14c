"""A process reward model as the reward function of reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from prm_lightning.modeling.aggregate import aggregate as combine
from prm_lightning.scoring.score import score_each
from prm_lightning.scoring.scorers import load_scorer
from prm_lightning.text import cut_chat_markup, split_steps
from prm_lightning.types import Aggregation, ModelScorer

Text = str | Sequence[Mapping[str, Any]]  # plain, or the messages of a chat


class PRMReward:
    """A reward function for TRL's trainers, such as ``GRPOTrainer(reward_funcs=PRMReward(model))``.

    A completion is split into steps (`text.split_steps`), and its reward is the aggregate of their
    probabilities of being correct. Completions of one problem are scored as one token tree.

    Args:
        model: a scorer, or the name of one, see `load_scorer`.
        aggregate: how to make one reward of a solution's steps; None takes the model's own way.
            ``min`` and ``prod`` cannot be raised by adding steps, ``mean`` and ``last`` can.
        problem_from: the column of the training data that holds the question. None takes the last
            user message of the prompt; from a plain prompt chat markup is cut.
        device: for a model given by its name.
    """

    def __init__(
        self,
        model: str | ModelScorer,
        aggregate: Aggregation | None = None,
        problem_from: str | None = None,
        device: str | None = None,
    ) -> None:
        self.scorer = load_scorer(model, device) if isinstance(model, str) else model
        self.aggregate: Aggregation = aggregate or self.scorer.aggregation
        self.problem_from = problem_from
        self.__name__ = f"prm_{self.aggregate}"  # TRL's name for the metric

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text | Sequence[str]], **columns: Any
    ) -> list[float | None]:
        """Rewards of some completions.

        Args:
            prompts: as text, or as messages with ``role`` and ``content``.
            completions: one per prompt, in the same form, or as a list of steps.
            **columns: what TRL hands over with them, one value per prompt in each column.

        Returns:
            One reward in [0, 1] per completion; None, which TRL leaves out, for one that cannot be
            scored because it is blank or longer than the model's context.

        Raises:
            ValueError: the column `problem_from` is missing, or one text is in place of a list.
        """
        for name, given in (("prompts", prompts), ("completions", completions)):
            if isinstance(given, str):
                raise ValueError(
                    f"PRMReward: {name} is the text {given[:60]!r}, expected a list, one a prompt."
                )
        if self.problem_from is not None and self.problem_from not in columns:
            raise ValueError(
                f"PRMReward: problem_from={self.problem_from!r} is no column of the training data, "
                f"which has {', '.join(columns) or 'none beside the prompt'}."
            )
        problems = columns[self.problem_from] if self.problem_from else map(_problem_of, prompts)
        rewards: list[float | None] = [None] * len(completions)
        groups: dict[str, dict[int, list[str]]] = {}
        for i, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            if steps := _steps_of(completion):
                groups.setdefault(problem, {})[i] = steps
        for problem, solutions in groups.items():
            found = score_each(partial(self.scorer.score, problem), list(solutions.values()))
            for i, scores in zip(solutions, found, strict=True):
                rewards[i] = None if isinstance(scores, str) else combine(scores, self.aggregate)
        return rewards


def _problem_of(prompt: Text) -> str:
    """The last message of the user."""
    if isinstance(prompt, str):
        return cut_chat_markup(prompt).strip()
    asked = [i for i, message in enumerate(prompt) if message["role"] == "user"]
    return _text_of(prompt[asked[-1] :] if asked else prompt, "user")


def _steps_of(completion: Text | Sequence[str]) -> list[str]:
    """The steps of a completion that is text, messages, or steps already."""
    if not isinstance(completion, str) and all(isinstance(part, str) for part in completion):
        return [step for step in cast(Sequence[str], completion) if step.strip()]
    return split_steps(_text_of(cast(Text, completion), "assistant"))


def _text_of(messages: Text, role: str) -> str:
    """What a role says in some messages; a message may be a list of parts, of which texts count."""
    if isinstance(messages, str):
        return messages
    texts = []
    for content in (message.get("content") for message in messages if message["role"] == role):
        if isinstance(content, str):
            texts.append(content)
        else:
            texts += [part["text"] for part in content or () if part.get("type") == "text"]
    return "\n\n".join(texts)
