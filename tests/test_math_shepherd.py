"""Math-Shepherd texts: questions, steps and labels are taken apart at the right places."""

import json

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import labels, solutions, texts, write_lines

from prm_lightning.sources import MathShepherd
from prm_lightning.sources.rewards import first_error


def row(question, steps, signs, marks=""):
    """A row as the data set writes it; `signs` stand in place of the marks, one a step."""
    lines = [f"Step {k}: {step} ки" for k, step in enumerate(steps, start=1)]
    text = f"{question} " + "\n".join(lines)
    pieces = text.split("ки")
    label = "".join(p + s for p, s in zip(pieces, [*signs, marks], strict=True))
    return {"input": text, "label": label, "task": "GSM8K"}


def read(tmp_path, *rows, **options):
    return list(MathShepherd(write_lines(tmp_path / "m.jsonl", *rows), **options).read())


def test_a_row_becomes_a_solution(tmp_path):
    good = row("2 * 3 + 1?", ["2*3=<<2*3=6>>6", "The answer is: 8"], "+-")
    (solution,) = read(tmp_path, good)
    assert (solution.problem, solution.source, solution.id) == ("2 * 3 + 1?", "m", "m:0")
    assert texts(solution) == ["2*3=6", "The answer is: 8"]
    assert labels(solution) == [1.0, 0.0]
    (kept,) = read(tmp_path, good, calculator_marks="keep", step_numbers="keep")
    assert texts(kept) == ["Step 1: 2*3=<<2*3=6>>6", "Step 2: The answer is: 8"]


def test_soft_labels_survive(tmp_path):
    (solution,) = read(tmp_path, row("q?", "abcd", ["0.75", "1.0", "0", "1e-05"]))
    assert labels(solution) == [0.75, 1.0, 0.0, 1e-05]


@given(
    steps=st.lists(
        st.tuples(st.text("ab+-? \n\u2028.0123", max_size=12), st.sampled_from("+-")),
        min_size=1,
        max_size=6,
    ),
    question=st.text("ab+- ?.01", max_size=12),
)
@settings(max_examples=40)
def test_signs_inside_the_text_are_no_labels(steps, question, tmp_path_factory):
    written = row(f"q {question}", [text for text, _ in steps], [sign for _, sign in steps])
    path = tmp_path_factory.getbasetemp() / "m.jsonl"
    (solution,) = MathShepherd(write_lines(path, written), step_numbers="keep").read()
    assert solution.problem == f"q {question}".strip()
    assert labels(solution) == [float(sign == "+") for _, sign in steps]
    for number, ((text, _), step) in enumerate(zip(steps, solution.steps, strict=True), start=1):
        assert step.text.split() == f"Step {number}: {text}".split()


def test_a_mark_inside_the_question_goes_with_its_label(tmp_path):
    inside = {
        "input": "Given ки x = 3, find 2x. Step 1: 2x = 6 ки\nStep 2: So 7 ки",
        "label": "Given + x = 3, find 2x. Step 1: 2x = 6 +\nStep 2: So 7 -",
    }
    at_the_end = {
        "input": "What is 2x? ки 2x = 6 ки\nStep 2: So 7 ки",
        "label": "What is 2x? - 2x = 6 +\nStep 2: So 7 -",
    }
    first, second = read(tmp_path, inside, at_the_end)
    assert (first.problem, texts(first)) == ("Given x = 3, find 2x.", ["2x = 6", "So 7"])
    assert (second.problem, texts(second)) == ("What is 2x?", ["2x = 6", "So 7"])
    assert labels(first) == labels(second) == [1.0, 0.0]


def test_a_first_step_without_a_number_begins_behind_the_question_mark(tmp_path):
    (solution,) = read(tmp_path, {"input": "What is 2x? 6. ки", "label": "What is 2x? 6. +"})
    assert (solution.problem, texts(solution)) == ("What is 2x?", ["6."])


def test_text_behind_the_last_mark_is_an_unlabelled_step(tmp_path):
    written = row("q?", ["a", "b"], "+-")
    both = {key: written[key] + "\nStep 3: and" for key in ("input", "label")}
    (solution,) = read(tmp_path, both)
    assert (texts(solution), labels(solution)) == (["a", "b", "and"], [1.0, 0.0, None])


GOOD = row("q?", ["a", "b"], "+-")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"label": GOOD["label"].replace("a", "c")}, "input and label differ"),
        ({"label": GOOD["label"][:-1]}, "input and label differ"),
        ({"label": GOOD["label"] + " more"}, "input and label differ"),
        ({"label": GOOD["label"].replace("+", "*")}, "input and label differ"),
        ({"label": GOOD["label"].replace("+", "1.5")}, "label outside [0, 1]"),
        ({"input": None}, "input is not text"),
        ({"label": 3}, "label is not text"),
        ({"input": "q? Step 1: a", "label": "q? Step 1: a"}, "no steps"),
        ({"input": "Find x. 3 ки", "label": "Find x. 3 +"}, "no first step"),
        ({"input": "q? ки", "label": "q? +"}, "no first step"),
        ({"input": "Step 1: a ки", "label": "Step 1: a +"}, "no input"),
    ],
)
def test_a_bad_row_is_dropped(tmp_path, changed, reason):
    good, dropped = read(tmp_path, GOOD, {**GOOD, **changed})
    assert labels(good) == [1.0, 0.0]
    assert dropped.reason == reason
    assert dropped.message.startswith(f"{tmp_path}/m.jsonl:2: ")
    assert len(dropped.message.splitlines()) == 1


def test_the_development_file_is_read_whole():
    file = dev_data("math_shepherd_format.jsonl")
    found = solutions(MathShepherd(str(file)))
    assert len(found) == 156
    assert sum(first_error(s) >= 0 for s in found) == 96  # of MR-GSM8K, wrong solutions alone
    assert sum(set(labels(s)) == {1.0} for s in found) == 60  # of GSM8K
    lines = [json.loads(line) for line in file.read_text().split("\n") if line]
    assert [len(s.steps) for s in found] == [line["input"].count("ки") for line in lines]
    for solution, line in zip(found, lines, strict=True):
        signs = [part.rstrip()[-1] for part in line["label"].split("\nStep ")]
        assert labels(solution) == [float(sign == "+") for sign in signs]
        assert not any("ки" in text or text.startswith("Step") for text in texts(solution))
