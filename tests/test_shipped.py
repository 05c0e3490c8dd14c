"""The model that ships with the package: what is in its folder, and what it was trained on."""

import json
from itertools import islice

import pytest
from conftest import dev_data

from prm_lightning import PRM
from prm_lightning.files import digest
from prm_lightning.modeling.model_folder import SHIPPED_MODELS
from prm_lightning.sources import Gsm8k, Stepwise, Synthetic
from prm_lightning.sources.problems import read_questions
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution

FOLDER = SHIPPED_MODELS / "smollm2-135m-prm"
EVALUATION = ("trl_stepwise_test", "processbench", "best_of_n_mixed", "best_of_n_qwen8")


def hashes(problems) -> set[str]:
    return {digest(normalise_problem(problem))[:16] for problem in problems}


def problems_of(source) -> set[str]:
    return {row.problem for row in source.read() if isinstance(row, Solution)}


@pytest.fixture(scope="module")
def trained_on() -> set[str]:
    known = set(json.loads((FOLDER / "training_problems.json").read_text())["problems"])
    assert len(known) > 9000  # 4,400 of GSM8K, 5,500 generated, 440 labelled
    return known


def test_the_folder_is_small_and_describes_itself():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 20e6
    card = (FOLDER / "README.md").read_text()
    for word in ("MIT", "CC-BY-4.0", "Apache-2.0", "train_smollm2_prm.sh", "## Limits"):
        assert word in card
    assert json.loads((FOLDER / "metrics.json").read_text())


@pytest.mark.slow
def test_training_problems_are_of_allowed_sources(trained_on):
    allowed = hashes(problems_of(Gsm8k(path=str(dev_data("gsm8k_train.jsonl")))))
    allowed |= hashes(problems_of(Stepwise(path=str(dev_data("stepwise_clean_train.jsonl")))))
    allowed |= hashes(problems_of(Synthetic(problems=2500, attempts=1)))
    allowed |= hashes(problems_of(Synthetic(problems=1800, attempts=1, seed=18)))
    allowed |= hashes(problems_of(Synthetic(problems=1200, attempts=1, split="drill")))
    assert trained_on <= allowed


@pytest.mark.parametrize("name", EVALUATION)
def test_no_training_problem_is_in_an_evaluation_file(trained_on, name):
    tested = hashes(problem for problem, _ in read_questions(str(dev_data(f"{name}.jsonl"))))
    assert len(tested) > 50
    assert not trained_on & tested


def test_the_generated_problems_of_other_splits_were_not_trained_on(trained_on):
    for split in ("validation", "quickstart"):
        problems = {s.problem for s in islice(Synthetic(300, 1, split).read(), 300)}
        assert not trained_on & hashes(problems)


@pytest.mark.slow
def test_it_scores_by_its_name():
    prm = PRM.from_pretrained("smollm2-135m-prm", device="cpu")
    problem = "A farmer plants 10 rows with 4 apple trees each. How many apple trees is that?"
    attempts = [["10 * 4 = 40 apple trees."], ["11 * 4 = 44 apple trees."]]
    (right,), (wrong,) = prm.score(problem, attempts)
    assert wrong < right
