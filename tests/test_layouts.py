"""ProcessBench, GSM8K, PRM800K: what each row says; and layouts told by their columns."""

import json
from collections import Counter

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import (
    dropped_among,
    labels,
    prm800k_row,
    prm800k_step,
    solutions,
    texts,
    write_lines,
)

from prm_lightning.sources import Gsm8k, Labelled, Prm800k, ProcessBench, Stepwise, open_source
from prm_lightning.sources.rewards import first_error
from prm_lightning.types import Solution

# ---- ProcessBench --------------------------------------------------------------------------------

ROW = {
    "id": "gsm8k-1",
    "generator": "some model",
    "problem": "1 + 1 + 1?",
    "steps": ["1 + 1 = 2.", "2 + 1 = 4.", "So it is 4."],
    "final_answer_correct": False,
    "label": 1,
}


def test_steps_before_the_error_are_right_and_steps_after_it_unlabelled(tmp_path):
    right = {**ROW, "id": 7, "label": -1, "final_answer_correct": True}
    wrong, right = solutions(ProcessBench(write_lines(tmp_path / "p.jsonl", ROW, right)))
    assert (wrong.problem, wrong.source, wrong.id) == ("1 + 1 + 1?", "p", "gsm8k-1")
    assert right.id == "p:1"
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


@pytest.mark.parametrize(("yes", "no"), [(True, False), (1, 0), (1.0, 0.0), ("1", "false")])
def test_solutions_are_chosen_by_their_final_answer(tmp_path, yes, no):
    other = {**ROW, "id": "b", "final_answer_correct": yes}
    path = write_lines(tmp_path / "p.jsonl", {**ROW, "final_answer_correct": no}, other)
    dropped, kept = ProcessBench(path, final_answer="correct").read()
    assert (kept.id, dropped.reason) == ("b", "final answer not correct")
    kept, dropped = ProcessBench(path, final_answer="wrong").read()
    assert (kept.id, dropped.reason) == ("gsm8k-1", "final answer not wrong")
    _, dropped = ProcessBench([ROW, {**ROW, "final_answer_correct": 2}]).read()
    assert dropped.reason == "final_answer_correct is no flag"


@pytest.mark.parametrize("label", [3, -2, 0.5, True, "1", float("nan"), float("inf"), [1]])
def test_a_label_that_names_no_step_is_dropped(label):
    assert dropped_among(ProcessBench, ROW, {**ROW, "label": label}).reason == "label is no step"


def test_all_of_processbench_is_read():
    found = solutions(ProcessBench(str(dev_data("processbench.jsonl"))))
    assert len(found) == len({solution.id for solution in found}) == 249
    assert sum(first_error(solution) == -1 for solution in found) == 104
    assert sum(len(solution.steps) for solution in found) == 1488


# ---- GSM8K ---------------------------------------------------------------------------------------


def test_gsm8k_lines_are_right_steps(tmp_path):
    row = {"question": "How many?", "answer": "He has 2*3=<<2*3=6>>6.\n\nSo 6.\n#### 1,006"}
    path = write_lines(tmp_path / "gsm.jsonl", row)
    (solution,) = Gsm8k(path).read()
    assert texts(solution) == ["He has 2*3=6.", "So 6.", "#### 1,006"]
    assert labels(solution) == [1.0] * 3
    assert (solution.problem, solution.answer, solution.source) == ("How many?", "1,006", "gsm")
    (kept,) = Gsm8k(path, calculator_marks="keep", name="g").read()
    assert (texts(kept)[0], kept.source, kept.id) == ("He has 2*3=<<2*3=6>>6.", "g", "g:0")


@pytest.mark.parametrize("changed", [{"question": ""}, {"answer": 3}, {"answer": " \n "}])
def test_a_bad_gsm8k_row_is_dropped(changed):
    good = {"question": "q", "answer": "a"}
    assert dropped_among(Gsm8k, good, {**good, **changed})


# ---- PRM800K -------------------------------------------------------------------------------------


FOUND_ERROR = prm800k_row(
    prm800k_step(("a", 1), chosen=0),
    prm800k_step(("bad", -1), ("b", 0), ("odd", None), chosen=1),
    prm800k_step(("wrong", -1), ("worse", -1)),
    reason="found_error",
)


def read(tmp_path, *rows, **options):
    return list(Prm800k(write_lines(tmp_path / "p.jsonl", *rows), **options).read())


def weights(solution):
    return [step.weight for step in solution.steps]


def test_every_completion_off_the_path_is_a_branch(tmp_path):
    main, *branches = read(tmp_path, FOUND_ERROR)
    assert (texts(main), labels(main)) == (["a", "b", "wrong"], [1.0, 1.0, 0.0])
    assert [texts(b) for b in branches] == [["a", "bad"], ["a", "odd"], ["a", "b", "worse"]]
    assert [labels(b) for b in branches] == [[1.0, 0.0], [1.0, None], [1.0, 1.0, 0.0]]
    assert weights(main) == [1, 1, 1]
    assert [weights(b) for b in branches] == [[0, 1], [0, 1], [0, 0, 1]]
    assert [s.id for s in (main, *branches)] == ["p:0.0", "p:0.1", "p:0.2", "p:0.3"]
    assert {(s.problem, s.answer, s.source) for s in (main, *branches)} == {("1 + 1?", "2", "p")}


@pytest.mark.parametrize(
    ("neutral", "label"), [("correct", 1.0), ("incorrect", 0.0), ("unlabelled", None)]
)
def test_what_neutral_means_is_an_option(tmp_path, neutral, label):
    main, *_ = read(tmp_path, FOUND_ERROR, neutral=neutral)
    assert labels(main) == [1.0, label, 0.0]


@pytest.mark.parametrize(("human", "label"), [("correct", 1.0), ("unlabelled", None)])
def test_the_path_continues_with_what_the_labeller_wrote(tmp_path, human, label):
    written = prm800k_row(
        prm800k_step(("bad", -1), human="good"), prm800k_step(("end", 1), chosen=0)
    )
    main, branch = read(tmp_path, written, human_completion=human)
    assert (texts(main), labels(main)) == (["good", "end"], [label, 1.0])
    assert (texts(branch), labels(branch)) == (["bad"], [0.0])


def test_the_path_ends_where_nothing_was_chosen(tmp_path):
    given_up = prm800k_row(
        prm800k_step(("a", 1), chosen=0),
        prm800k_step(),
        prm800k_step(("late", 1)),
        reason="give_up",
    )
    blank = prm800k_row(
        prm800k_step((" \n", 1), chosen=0), prm800k_step(("b", 1), ("", -1), chosen=0)
    )
    null = prm800k_row({"completions": None, "human_completion": None, "chosen_completion": None})
    first, second, dropped = read(tmp_path, given_up, blank, null)
    assert (texts(first), texts(second)) == (["a"], ["b"])
    assert dropped.reason == "no steps"


def test_rows_that_should_not_train_are_dropped_and_counted(tmp_path):
    one = prm800k_step(("a", 1), chosen=0)
    screening = prm800k_row(one, is_initial_screening_question=True)
    bad = prm800k_row(one, reason="bad_problem")
    kept, dropped = read(tmp_path, screening, bad)
    assert (texts(kept), dropped.reason) == (["a"], "bad problem")
    reasons = [d.reason for d in read(tmp_path, screening, bad, control_rows="drop")]
    assert reasons == ["control row", "bad problem"]


RATINGS = st.sampled_from([1, 0, -1, None])
PATHS = st.lists(
    st.tuples(st.lists(RATINGS, max_size=4), st.integers(0, 4), st.booleans()), max_size=5
)


@given(PATHS)
@settings(max_examples=40)
def test_each_completion_is_supervised_once_and_has_its_own_rating(tmp_path_factory, path):
    steps, expected = [], Counter()
    is_open = True
    for number, (ratings, chosen, human) in enumerate(path):
        texts_ = [f"{number}.{k}: {rating}" for k, rating in enumerate(ratings)]
        picked = chosen if chosen < len(ratings) else None
        written = f"{number}.human: 1" if human and picked is None else None
        steps.append(prm800k_step(*zip(texts_, ratings, strict=True), chosen=picked, human=written))
        if is_open:
            expected.update([*texts_, *([written] if written else [])])
        is_open = is_open and (picked is not None or human)
    file = write_lines(tmp_path_factory.getbasetemp() / "p.jsonl", prm800k_row(*steps))
    found = list(Prm800k(file, neutral="incorrect").read())
    if not expected:
        assert [dropped.reason for dropped in found] == ["no steps"]
        return
    rated = {"1": 1.0, "0": 0.0, "-1": 0.0, "None": None}
    for solution in found:
        for text, label in zip(texts(solution), labels(solution), strict=True):
            assert label == rated[text.split(": ")[1]]
    supervised = [s.text for solution in found for s in solution.steps if s.weight]
    assert Counter(supervised) == expected


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"question": "1 + 1?"}, "question is not an object"),
        ({"question": {"problem": None}}, "no problem"),
        ({"label": [1]}, "label is not an object"),
        ({"label": {"steps": None}}, "steps are not a list"),
        ({"label": {"steps": [3]}}, "steps is not an object"),
        ({"label": {"steps": [prm800k_step(("a", 1), chosen=1)]}}, "chosen completion is none"),
        ({"label": {"steps": [prm800k_step(("a", 1), chosen=True)]}}, "chosen completion is none"),
        ({"label": {"steps": [prm800k_step(("a", 2), chosen=0)]}}, "rating unknown"),
        ({"label": {"steps": [prm800k_step(("a", float("nan")), chosen=0)]}}, "rating unknown"),
        ({"label": {"steps": [prm800k_step((None, 1), chosen=0)]}}, "step is not text"),
    ],
)
def test_a_bad_row_of_prm800k_is_dropped(changed, reason):
    good = prm800k_row(prm800k_step(("a", 1), chosen=0))
    assert dropped_among(Prm800k, good, prm800k_row(**changed)).reason == reason


def test_all_of_prm800k_is_read():
    file = dev_data("prm800k_raw.jsonl")
    found = solutions(Prm800k(str(file), neutral="incorrect"))
    raw = [json.loads(line) for line in file.read_text().split("\n") if line]
    assert len(raw) == len({s.id.partition(".")[0] for s in found}) == 8
    steps = [s for line in raw for s in line["label"]["steps"]]
    for step in steps:
        step["completions"] = step["completions"] or []  # may be null
    written = sum(s["human_completion"] is not None for s in steps)
    rated = Counter(c["rating"] for s in steps for c in s["completions"])
    trained = Counter(s.label for solution in found for s in solution.steps if s.weight)
    assert trained == {1.0: rated[1] + written, 0.0: rated[0] + rated[-1], None: rated[None]}


# ---- layouts told by their columns ---------------------------------------------------------------

TRL = {"prompt": "p", "completions": ["a"], "labels": [True]}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"problem": None, "steps": None, "label": None, "answer": None, **TRL}, "Stepwise"),
        ({"messages": [{"role": "user", "content": "p Step 1: a"}]}, "RlhFlow"),
    ],
)
def test_the_layout_is_told_from_the_columns_that_are_filled(row, name, tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", "no row", row)
    for source in (open_source(path), open_source([row])):
        assert type(source).__name__ == name
        found = [item for item in source.read() if isinstance(item, Solution)]
        assert found[0].source == "rows"
    assert open_source(path, name="mine").name == "mine"


def test_a_folder_that_label_wrote_is_told_by_its_files(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    assert isinstance(open_source(str(tmp_path)), Labelled)


def test_an_unknown_layout_names_its_columns(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", {"text": "a", "label": None})
    with pytest.raises(ValueError, match=r"x\.jsonl: the layout is unknown, the columns are text"):
        open_source(path)


def test_rows_of_a_union_of_tables_each_fill_their_own_columns(tmp_path):
    other = {"problem": "q", "steps": ["b"]}
    empty = dict.fromkeys([*TRL, *other])
    path = write_lines(tmp_path / "u.jsonl", {**empty, **TRL}, {**empty, **other, "labels": [0]})
    first, second = solutions(Stepwise(path))
    assert (first.problem, second.problem, labels(second)) == ("p", "q", [0.0])
