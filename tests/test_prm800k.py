"""PRM800K rows: a solution a branch, every rating on its completion, each supervised once."""

import json
from collections import Counter

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import labels, solutions, texts, write_lines

from prm_lightning.sources import Prm800k


def step(*completions, chosen=None, human=None):
    return {
        "completions": [{"text": text, "rating": rating} for text, rating in completions],
        "chosen_completion": chosen,
        "human_completion": human and {"text": human, "rating": None, "source": "human"},
    }


def row(*steps, reason="solution", **changes):
    return {
        "labeler": "x",
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": "1 + 1?", "ground_truth_answer": "2"},
        "label": {"steps": list(steps), "finish_reason": reason},
        **changes,
    }


FOUND_ERROR = row(
    step(("a", 1), chosen=0),
    step(("bad", -1), ("b", 0), ("odd", None), chosen=1),
    step(("wrong", -1), ("worse", -1)),
    reason="found_error",
)


def read(tmp_path, *rows, **options):
    return list(Prm800k(write_lines(tmp_path / "p.jsonl", *rows), **options).read())


def weights(solution):
    return [step.weight for step in solution.steps]


def test_every_completion_that_is_not_gone_on_with_is_a_branch(tmp_path):
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
def test_the_path_goes_on_with_what_the_labeller_wrote(tmp_path, human, label):
    written = row(step(("bad", -1), human="good"), step(("end", 1), chosen=0))
    main, branch = read(tmp_path, written, human_completion=human)
    assert (texts(main), labels(main)) == (["good", "end"], [label, 1.0])
    assert (texts(branch), labels(branch)) == (["bad"], [0.0])


def test_the_path_ends_where_nothing_was_chosen(tmp_path):
    given_up = row(step(("a", 1), chosen=0), step(), step(("late", 1)), reason="give_up")
    blank = row(step((" \n", 1), chosen=0), step(("b", 1), ("", -1), chosen=0))
    null = row({"completions": None, "human_completion": None, "chosen_completion": None})
    first, second, dropped = read(tmp_path, given_up, blank, null)
    assert (texts(first), texts(second)) == (["a"], ["b"])
    assert dropped.reason == "no steps"


def test_rows_that_should_not_train_are_dropped_and_counted(tmp_path):
    one = step(("a", 1), chosen=0)
    screening = row(one, is_initial_screening_question=True)
    bad = row(one, reason="bad_problem")
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
    going_on = True
    for number, (ratings, chosen, human) in enumerate(path):
        texts_ = [f"{number}.{k}: {rating}" for k, rating in enumerate(ratings)]
        picked = chosen if chosen < len(ratings) else None
        written = f"{number}.human: 1" if human and picked is None else None
        steps.append(step(*zip(texts_, ratings, strict=True), chosen=picked, human=written))
        if going_on:
            expected.update([*texts_, *([written] if written else [])])
        going_on = going_on and (picked is not None or human)
    file = write_lines(tmp_path_factory.getbasetemp() / "p.jsonl", row(*steps))
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
        ({"label": None}, "label is not an object"),
        ({"label": {"steps": None}}, "steps are not a list"),
        ({"label": {"steps": [3]}}, "steps is not an object"),
        ({"label": {"steps": [step(("a", 1), chosen=1)]}}, "chosen completion is none"),
        ({"label": {"steps": [step(("a", 1), chosen=-1)]}}, "chosen completion is none"),
        ({"label": {"steps": [step(("a", 1), chosen=True)]}}, "chosen completion is none"),
        ({"label": {"steps": [step(("a", 2), chosen=0)]}}, "rating unknown"),
        ({"label": {"steps": [step(("a", True), chosen=0)]}}, "rating unknown"),
        ({"label": {"steps": [step(("a", float("nan")), chosen=0)]}}, "rating unknown"),
        ({"label": {"steps": [step((None, 1), chosen=0)]}}, "step is not text"),
    ],
)
def test_a_bad_row_is_dropped(tmp_path, changed, reason):
    (dropped,) = read(tmp_path, row(**changed))
    assert dropped.reason == reason
    assert dropped.message.startswith(f"{tmp_path}/p.jsonl:1: ")


def test_the_development_file_is_read_whole():
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
    # A branch each, but for those gone on with; a path each, but where branches end it.
    unchosen = sum(len(s["completions"]) - (s["chosen_completion"] is not None) for s in steps)
    ended = sum(
        bool(line["label"]["steps"][-1]["completions"])
        and line["label"]["steps"][-1]["chosen_completion"] is None
        for line in raw
    )
    assert len(found) == unchosen + len(raw) - ended
