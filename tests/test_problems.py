"""Problems from raw rows, and those of them that a model fails sometimes."""

import json
from collections import Counter

import pytest
from conftest import dev_data
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.labelling.mining import Mined, answer_of, fail_rate, mine
from prm_lightning.labelling.problems import Problem, problem_id, read_problems
from prm_lightning.types import Completion, Dropped, Sampling


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


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
    ],
)
def test_layouts_of_questions_and_answers_are_read(tmp_path, row, answer):
    (problem,) = read_problems(write(tmp_path / "p.jsonl", [row]))
    assert problem == Problem(problem_id("Q?"), "Q?", answer)


def test_each_question_is_taken_once_and_the_rest_is_counted(tmp_path):
    rows = [
        tried("How many?", "5", None, flag=False),
        tried("How many?", "5", "7"),
        tried("How many?", "5", "5"),
        tried("how  many", "6", "6"),
        {"question": " ", "answer": "5"},
        {"question": "Why?", "answer": ""},
        {"question": "Who?", "answer": True},
        {"question": "What?", "answer": "She said\nnothing."},
    ]
    found = list(read_problems(write(tmp_path / "p.jsonl", rows)))
    assert answers(found) == ["5"]
    assert reasons(found) == {
        "not flagged correct": 1,
        "flagged correct with another answer": 1,
        "question seen before": 1,
        "no question": 1,
        "no answer": 3,
    }


def test_limit_counts_problems_not_rows(tmp_path):
    rows = [{"question": f"{i // 2}?", "answer": "1"} for i in range(10)]
    path = write(tmp_path / "p.jsonl", rows)
    assert len(answers(read_problems(path, limit=3))) == 3
    assert len(answers(read_problems(path))) == 5


def test_a_file_without_any_problem_is_an_error(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"text": "a"}])
    with pytest.raises(ValueError, match=r"no row of .*p\.jsonl is a problem .*expected text in"):
        list(read_problems(path))


def test_public_data_are_read():
    found = list(read_problems(str(dev_data("openmathinstruct1.jsonl"))))
    questions = [p.question for p in found if isinstance(p, Problem)]
    assert len(found) == 250 and len(set(questions)) == len(questions) > 50
    assert reasons(found)["flagged correct with another answer"] >= 1
    gsm8k = list(read_problems(str(dev_data("gsm8k_train_slice.jsonl"))))
    assert len(answers(gsm8k)) == 800 and all(float(answer) >= 0 for answer in answers(gsm8k))


class Tutor:
    """Fails a problem as often in ten tries as its answer says."""

    name = "tutor"

    def __init__(self):
        self.asked = []

    def generate(self, prompts, sampling):
        self.asked.append([prompt.problem for prompt in prompts])
        return [
            [said("no" if k < int(p.problem) else f"#### {p.problem}") for k in range(sampling.n)]
            for p in prompts
        ]


def said(text, ended="end"):
    return Completion(text, 1, ended)


def problems(*fails):
    return [Problem(str(i), str(f), str(f)) for i, f in enumerate(fails)]


def test_problems_that_are_failed_sometimes_are_kept():
    mined = list(mine(problems(*range(11)), Tutor(), samples=10, min_fail=0.3, max_fail=0.8))
    assert [m.fail_rate for m in mined] == [pytest.approx(f / 10) for f in range(11)]
    assert [m.outcome for m in mined] == ["too easy"] * 3 + ["kept"] * 6 + ["too hard"] * 2
    assert all(len(m.completions) == 10 for m in mined)


def test_mining_ends_when_enough_are_kept():
    tutor = Tutor()
    mined = list(mine(problems(*[0, 5] * 50), tutor, samples=10, limit=4, at_once=3))
    assert Counter(m.outcome for m in mined) == {"kept": 4, "too easy": 4}
    assert len(tutor.asked) == 3


@given(fails=st.lists(st.integers(0, 10), max_size=12), done=st.integers(0, 12))
def test_a_run_that_goes_on_asks_for_nothing_twice_and_keeps_the_same(fails, done):
    whole = list(mine(problems(*fails), Tutor(), samples=10, limit=3))
    known = {m.problem.id: m.fail_rate for m in whole[:done]}
    tutor = Tutor()
    again = list(mine(problems(*fails), tutor, samples=10, limit=3, known=known, at_once=1))
    assert [(m.problem, m.outcome) for m in again] == [(m.problem, m.outcome) for m in whole]
    assert sum(map(len, tutor.asked)) == max(0, len(whole) - done)
    assert all(m.completions == () for m in again[:done])


def test_the_samplings_own_number_gives_way():
    mined = list(mine(problems(5), Tutor(), samples=2, sampling=Sampling(n=9)))
    assert mined == [Mined(problems(5)[0], 1.0, "too hard", (said("no"),) * 2)]


def test_what_a_completion_states_counts_before_what_was_begun():
    assert answer_of(said("So\n#### 7"), begun="\\boxed{3}\n") == "7"
    assert answer_of(said(" 4 in all."), begun="The sum is") == "4"
    assert answer_of(said("."), begun="The answer is 3") == "3"


def test_a_completion_cut_at_its_length_has_only_a_stated_answer():
    assert answer_of(said("First, 5 * 4 = 20", "length")) is None
    assert answer_of(said("The answer is 20. Now", "length")) == "20"
    assert fail_rate(problems(20)[0], [said("so 20", "length"), said("so 20")]) == 0.5
