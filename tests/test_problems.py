"""Problems from raw rows, and those of them that a model fails sometimes."""

import json
from collections import Counter

import pytest
from conftest import dev_data
from raw_rows import write_lines

from prm_lightning.files import digest
from prm_lightning.sources.problems import Problem, read_problems
from prm_lightning.types import Dropped


def reasons(found):
    return Counter(d.reason for d in found if isinstance(d, Dropped))


def tried(question, expected, predicted, flag=True):
    """A row of OpenMathInstruct-1."""
    return {
        "question": question,
        "expected_answer": expected,
        "predicted_answer": predicted,
        "is_correct": flag,
    }


def answers(found):
    return [p.answer for p in found if isinstance(p, Problem)]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "Q?", "answer": "2*3=<<2*3=6>>6\n#### 1,006"}, "1006"),
        ({"question": "Q?", "answer": 18}, "18"),
        ({"problem": "Q?", "answer": "\\frac{1}{2}"}, "\\frac{1}{2}"),
        ({"question": "Q?", "final_answer": "Tuesday"}, "Tuesday"),
        ({"question": "Q?", "ground_truth_answer": "so \\boxed{x+1}"}, "x+1"),
        ({"question": "Q?", "expected_answer": "5", "is_correct": True}, "5"),
        ({"question": None, "problem": "Q?", "answer": "5", "is_correct": 1}, "5"),
        ({"question": "<|user|>Q?<|end|>", "answer": "5"}, "5"),
    ],
)
def test_layouts_of_questions_and_answers_are_read(tmp_path, row, answer):
    (problem,) = read_problems(write_lines(tmp_path / "p.jsonl", row))
    assert problem == Problem(digest("q")[:16], "Q?", answer)


def test_each_question_is_taken_once_and_the_rest_is_counted(tmp_path):
    rows = [
        tried("How many?", "5", None, flag=False),
        tried("How many?", "5", "7"),
        tried("How many?", "5", "5"),
        tried("how  many", "6", "6"),
        {"question": " ", "answer": "5"},
        json.dumps({"question": "Half \ud83d?", "answer": "5"}),
        {"question": "Why?", "answer": ""},
        {"question": "Who?", "answer": True},
        {**tried("Zero?", "5", "5"), "is_correct": 0},
        {**tried("Maybe?", "5", "5"), "is_correct": "maybe"},
        {"question": "<|im_start|>user\n<|im_end|>\n", "answer": "5"},
        {"question": "What?", "answer": "She said\nnothing."},
    ]
    found = list(read_problems(write_lines(tmp_path / "p.jsonl", *rows)))
    assert answers(found) == ["5"]
    assert reasons(found) == {
        "not flagged correct": 2,
        "is_correct is no flag": 1,
        "flagged correct with another answer": 1,
        "question seen before": 1,
        "no question": 2,
        "text with half a character": 1,
        "no answer": 3,
    }


def test_limit_counts_problems_not_rows(tmp_path):
    rows = [{"question": f"{i // 2}?", "answer": "1"} for i in range(10)]
    path = write_lines(tmp_path / "p.jsonl", *rows)
    assert len(answers(read_problems(path, limit=3))) == 3
    assert len(answers(read_problems(path))) == 5


def test_a_file_without_any_problem_is_an_error(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", {"question": "a"})
    with pytest.raises(ValueError, match=r"no row of .*p\.jsonl is a problem .*the answer is None"):
        list(read_problems(path))


def test_public_data_are_read():
    found = list(read_problems(str(dev_data("openmathinstruct1.jsonl"))))
    questions = [p.question for p in found if isinstance(p, Problem)]
    assert len(found) == 250 and len(set(questions)) == len(questions) > 50
    assert reasons(found)["flagged correct with another answer"] >= 1
    gsm8k = list(read_problems(str(dev_data("gsm8k_train_slice.jsonl"))))
    assert len(answers(gsm8k)) == 800 and all(float(answer) >= 0 for answer in answers(gsm8k))
