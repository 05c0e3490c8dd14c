"""A process reward model as verl's reward function.

python -m verl.trainer.main_ppo custom_reward_function.path=scripts/verl_prm_reward.py ...

Environment, which verl's workers inherit:
    PRM_REWARD_MODEL      a model as for `score --model`; required
    PRM_REWARD_AGGREGATE  min, prod, last, mean or geomean (default: the model's own)
    PRM_REWARD_OUTCOME    share in [0, 1] of the reward that is the final answer (default: 0)
"""

import os
from functools import cache
from typing import Any

from prm_lightning.answers import extract_answer, same_answer
from prm_lightning.scoring.reward import PRMReward
from prm_lightning.text import split_steps


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **others: Any,
) -> dict[str, float]:
    """The reward of one solution, with what shows that it is being hacked.

    Args:
        data_source: the data set; not used.
        solution_str: what the policy wrote.
        ground_truth: the reference answer.
        extra_info: of the row; ``question`` is the problem as plain text.
        **others: what a release of verl hands over beside them.

    Returns:
        ``score``, which is the reward, and ``prm``, ``correct`` and ``steps``, which verl logs. A
        solution that cannot be scored (blank, or beyond the context) has ``prm`` 0.

    Raises:
        ValueError: the row has no question.
    """
    question = (extra_info or {}).get("question")
    if not question:
        raise ValueError(
            f"verl_prm_reward: a row of {data_source!r} has no question in extra_info, which has "
            f"{sorted(extra_info or {})}. Write it there when the data are prepared."
        )
    (prm,) = reward()([question], [solution_str])
    answer = extract_answer(solution_str)
    correct = float(answer is not None and same_answer(answer, str(ground_truth)))
    share = float(os.environ.get("PRM_REWARD_OUTCOME", "0"))
    prm = prm or 0.0
    return {
        "score": (1 - share) * prm + share * correct,
        "prm": prm,
        "correct": correct,
        "steps": float(len(split_steps(solution_str))),
    }


@cache
def reward() -> PRMReward:
    """Loaded once a process."""
    name = os.environ.get("PRM_REWARD_MODEL")
    if not name:
        raise ValueError("verl_prm_reward: set PRM_REWARD_MODEL to a process reward model.")
    return PRMReward(name, os.environ.get("PRM_REWARD_AGGREGATE") or None)  # type: ignore[arg-type]
