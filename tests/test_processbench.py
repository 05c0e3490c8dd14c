"""ProcessBench rows: the index of the first wrong step becomes labels."""

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import labels, solutions, texts, write_lines

from prm_lightning.sources import ProcessBench
from prm_lightning.sources.rewards import first_error

ROW = {
    "id": "gsm8k-1",
    "generator": "some model",
    "problem": "1 + 1 + 1?",
    "steps": ["1 + 1 = 2.", "2 + 1 = 4.", "So it is 4."],
    "final_answer_correct": False,
    "label": 1,
}


def test_steps_before_the_error_are_right_and_steps_behind_it_unlabelled(tmp_path):
    right = {**ROW, "id": "gsm8k-2", "label": -1, "final_answer_correct": True}
    wrong, right = solutions(ProcessBench(write_lines(tmp_path / "p.jsonl", ROW, right)))
    assert (wrong.problem, wrong.source, wrong.id) == ("1 + 1 + 1?", "p", "gsm8k-1")
    assert texts(wrong) == ROW["steps"]
    assert labels(wrong) == [1.0, 0.0, None]
    assert labels(right) == [1.0, 1.0, 1.0]
    assert wrong.answer is None


@given(label=st.integers(-1, 5), blank=st.sets(st.integers(0, 5)))
@settings(max_examples=40)
def test_the_first_error_is_the_label_whatever_is_blank(label, blank, tmp_path_factory):
    steps = ["" if k in blank else f"step {k}" for k in range(6)]
    path = tmp_path_factory.getbasetemp() / "p.jsonl"
    (found,) = ProcessBench(write_lines(path, {**ROW, "steps": steps, "label": label})).read()
    if len(blank) == 6 or label in blank:
        assert found.reason in ("no steps", "wrong step is blank")
    else:
        error = first_error(found)
        assert (texts(found)[error] if error >= 0 else None) == (
            steps[label] if label >= 0 else None
        )
        assert len(found.steps) == 6 - len(blank)


def test_solutions_are_chosen_by_their_final_answer(tmp_path):
    other = {**ROW, "id": "b", "final_answer_correct": True}
    path = write_lines(tmp_path / "p.jsonl", ROW, other)
    dropped, kept = ProcessBench(path, final_answer="correct").read()
    assert (kept.id, dropped.reason) == ("b", "final answer not correct")
    kept, dropped = ProcessBench(path, final_answer="wrong").read()
    assert (kept.id, dropped.reason) == ("gsm8k-1", "final answer not wrong")


@pytest.mark.parametrize("label", [3, -2, 0.5, True, None, "1", float("nan"), float("inf"), [1]])
def test_a_label_that_names_no_step_is_dropped(tmp_path, label):
    path = write_lines(tmp_path / "p.jsonl", ROW, {**ROW, "label": label})
    _, dropped = ProcessBench(path).read()
    assert dropped.reason == "label is no step"


def test_an_id_that_is_taken_gets_a_suffix(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", ROW, ROW, {**ROW, "id": None}, {**ROW, "id": 7})
    assert [s.id for s in ProcessBench(path).read()] == ["gsm8k-1", "gsm8k-1#2", "p:2", "p:3"]


def test_the_development_file_is_read_whole():
    found = solutions(ProcessBench(str(dev_data("processbench.jsonl"))))
    assert len(found) == len({solution.id for solution in found}) == 249
    assert sum(solution.id.startswith("gsm8k") for solution in found) == 120
    assert sum(solution.id.startswith("math") for solution in found) == 129
    assert sum(first_error(solution) == -1 for solution in found) == 104
    assert sum(len(solution.steps) for solution in found) == 1488
