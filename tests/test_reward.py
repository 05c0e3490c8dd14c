"""A PRM as a reward: of TRL's trainers, and by the scripts for TRL and verl."""

import importlib.util
import inspect
import json
import runpy
import sys
from pathlib import Path

import pytest
from test_prm import tiny_prm
from test_scorers import Counting

from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.scoring.reward import PRMReward
from prm_lightning.text import split_steps

SCRIPTS = Path(__file__).parents[1] / "scripts"
QUESTION = "How many apples?"
TEXT = "Step 1: She has 3 + 12 = 15 apples.\nStep 2: So the answer is 15."
OTHER = "She has 3.\n\nShe buys 12.\n\nSo 15."


@pytest.fixture(scope="module")
def prm(tiny_model_folder):
    return tiny_prm(tiny_model_folder("llama", max_position_embeddings=256))


@pytest.fixture(scope="module")
def folder(prm, tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "prm"
    prm.save_pretrained(path)
    return path


def chat(text, role="assistant"):
    return [{"role": role, "content": text}]


def test_a_reward_is_the_aggregate_of_the_steps_of_a_completion(prm):
    steps = [
        ["Step 1: She has 3 + 12 = 15 apples.", "Step 2: So the answer is 15."],
        ["She has 3.", "She buys 12.", "So 15."],
    ]
    expected = [aggregate(scores, "prod") for scores in prm.score(QUESTION, steps)]
    reward = PRMReward(prm, aggregate="prod")
    assert reward([QUESTION] * 2, [TEXT, OTHER]) == pytest.approx(expected, abs=1e-6)
    assert reward.__name__ == "prm_prod"
    assert PRMReward(prm).__name__ == "prm_min"


def test_prompts_and_completions_come_in_several_forms(prm):
    reward = PRMReward(prm)
    plain = reward([QUESTION], [TEXT])
    system = chat("Be brief.", "system")
    markup = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    assert reward([markup], [TEXT]) == plain
    assert reward([[*system, *chat(QUESTION, "user")]], [chat(TEXT)]) == plain
    assert reward([parts], [chat(TEXT)], completion_ids=[[1]], trainer_state=None) == plain
    asked_before = [*chat("Hello?", "user"), *chat("Hi."), *chat(QUESTION, "user")]
    assert reward([asked_before], [chat(TEXT)]) == plain
    assert reward([QUESTION], [split_steps(TEXT)]) == plain  # steps already
    with pytest.raises(ValueError, match=r"completions is the text 'Step 1"):
        reward([QUESTION], TEXT)
    with pytest.raises(ValueError, match=r"prompts is the text '2 \+"):
        reward("2 +", [TEXT] * 3)
    rendered = PRMReward(prm, problem_from="question")
    assert rendered(["Solve this:"], [TEXT], question=[QUESTION], log_extra=print) == plain


def test_completions_of_one_problem_are_scored_together():
    counting = Counting()
    prompts = ["a", "b", "a", "b"]
    completions = ["x.", "y.", "", "z."]
    rewards = PRMReward(counting)(prompts, completions)
    assert counting.asked == [("a", ("x.",)), ("b", ("y.",)), ("b", ("z.",))]
    assert rewards == [0.3, 0.3, None, 0.3]


def test_what_cannot_be_scored_is_no_zero(prm):
    reward = PRMReward(prm)
    assert reward([QUESTION] * 3, ["", " \n", "She has 3 apples. " * 100]) == [None] * 3
    mixed = reward([QUESTION] * 3, [TEXT, "She has 3 apples. " * 100, OTHER])
    assert mixed[1] is None
    assert [mixed[0], mixed[2]] == pytest.approx(reward([QUESTION] * 2, [TEXT, OTHER]), abs=1e-6)
    assert reward([[]], [[]]) == [None]  # no messages at all


def test_failures_of_a_server_are_errors(prm):
    with pytest.raises(ConnectionError):
        PRMReward(Counting(fails_after=0))(["a"], ["x."])
    with pytest.raises(ValueError, match="problem_from='question' is no column"):
        PRMReward(prm, problem_from="question")(["a"], ["x."], answer=["1"])


# -- scripts ---------------------------------------------------------------------------------


def load(name):
    """A script as verl loads it: by its path."""
    spec = importlib.util.spec_from_file_location("custom_module", SCRIPTS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
