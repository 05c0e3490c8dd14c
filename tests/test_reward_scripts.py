"""The reward functions for trainers: verl's by its signature, TRL's recipe end to end."""

import importlib.util
import inspect
import json
import runpy
import sys
from pathlib import Path

import pytest
from test_prm import tiny_prm

from prm_lightning.scoring.reward import PRMReward

SCRIPTS = Path(__file__).parents[1] / "scripts"
QUESTION = "How many apples?"
TEXT = "Step 1: She has 3 + 12 = 15 apples.\nStep 2: So the answer is 15."


def load(name):
    """A script as verl loads it: by its path."""
    spec = importlib.util.spec_from_file_location("custom_module", SCRIPTS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    path = tmp_path / "prm"
    tiny_prm(tiny_model_folder("llama", max_position_embeddings=256)).save_pretrained(path)
    return path


def score(module, text=TEXT, answer="15", question=QUESTION):
    """Called as verl's NaiveRewardManager does, by name."""
    return module.compute_score(
        data_source="openai/gsm8k",
        solution_str=text,
        ground_truth=answer,
        extra_info={"question": question, "num_turns": None},
    )


def test_verl_gets_the_reward_and_what_to_log(folder, monkeypatch):
    monkeypatch.setenv("PRM_REWARD_MODEL", str(folder))
    module = load("verl_prm_reward.py")
    assert list(inspect.signature(module.compute_score).parameters)[:4] == [
        "data_source", "solution_str", "ground_truth", "extra_info",
    ]  # fmt: skip
    (expected,) = PRMReward(str(folder))([QUESTION], [TEXT])
    said = score(module)
    assert said == {"score": expected, "prm": expected, "correct": 1.0, "steps": 2.0}
    assert score(module, answer="16")["correct"] == 0.0
    blank = score(module, text=" \n")
    assert blank == {"score": 0.0, "prm": 0.0, "correct": 0.0, "steps": 0.0}
    monkeypatch.setenv("PRM_REWARD_OUTCOME", "0.5")
    assert score(module)["score"] == pytest.approx(0.5 * expected + 0.5)
    with pytest.raises(ValueError, match="no question in extra_info"):
        score(module, question="")


def test_verl_without_a_model_is_one_line(monkeypatch):
    monkeypatch.delenv("PRM_REWARD_MODEL", raising=False)
    with pytest.raises(ValueError, match="set PRM_REWARD_MODEL"):
        score(load("verl_prm_reward.py"))


@pytest.mark.slow
def test_the_recipe_for_trl_trains(folder, tiny_model_folder, tmp_path, monkeypatch, capsys):
    options = {
        "prm": folder,
        "policy": tiny_model_folder("llama"),
        "output": tmp_path / "grpo",
        "problems": 4,
        "steps": 2,
        "max_tokens": 8,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["grpo_prm_reward.py", *words])
    runpy.run_path(str(SCRIPTS / "grpo_prm_reward.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    logged = [json.loads(line) for line in lines if line.startswith('{"')]
    assert len(logged) == 2
    for row in logged:
        assert 0 < row["rewards/prm_min/mean"] < 1
        assert row["reward"] == pytest.approx(row["rewards/prm_min/mean"])
        assert row["rewards/number_of_steps/mean"] >= 1
        assert row["rewards/right_answer/mean"] <= 1
    assert (tmp_path / "grpo" / "model.safetensors").is_file()
