"""Question and steps in one text: taken apart at the right places, each label with its step."""

import json

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import chat, dropped_among, labels, shepherd, solutions, texts, write_lines

from prm_lightning.sources import MathShepherd, OpenRlhf, RlhFlow
from prm_lightning.sources.marked_text import cut_first_step, find_first_step
from prm_lightning.sources.rewards import first_error
from prm_lightning.sources.rows import RowError
from prm_lightning.text import remove_step_number

SHEPHERD = shepherd("2 + 3?", ["2+3=<<2+3=5>>5", "So 6."], "+-")
OPENRLHF = {"input": SHEPHERD["input"], "value": ["+", "-"]}
RLHFLOW = {"conversations": chat("2 + 3? Step 1: 2+3=<<2+3=5>>5", "+", "Step 2: So 6.", "-")}
ROWS = {MathShepherd: SHEPHERD, OpenRlhf: OPENRLHF, RlhFlow: RLHFLOW}


def read(source, tmp_path, *rows, **options):
    return list(source(write_lines(tmp_path / "m.jsonl", *rows), **options).read())


@pytest.mark.parametrize("source", ROWS)
def test_a_row_becomes_a_solution(source, tmp_path):
    (solution,) = read(source, tmp_path, ROWS[source])
    assert (solution.problem, solution.source, solution.id) == ("2 + 3?", "m", "m:0")
    assert (texts(solution), labels(solution)) == (["2+3=5", "So 6."], [1.0, 0.0])
    kept = {"calculator_marks": "keep", "step_numbers": "keep"}
    (kept,) = read(source, tmp_path, ROWS[source], **kept)
    assert texts(kept) == ["Step 1: 2+3=<<2+3=5>>5", "Step 2: So 6."]


SIGNS = {"+": 1.0, "-": 0.0, "0.75": 0.75, "1e-05": 1e-05}
BAD_ROWS = [
    (MathShepherd, {"label": SHEPHERD["label"].replace("So", "Sa")}, "input and label differ"),
    (MathShepherd, {"label": SHEPHERD["label"][:-1]}, "input and label differ"),
    (MathShepherd, {"label": SHEPHERD["label"].replace("5 +", "5 *")}, "input and label differ"),
    (MathShepherd, {"label": SHEPHERD["label"].replace("5 +", "5 1.5")}, "label outside [0, 1]"),
    (MathShepherd, {"label": 3}, "label is not text"),
    (MathShepherd, {"input": "q? Step 1: a", "label": "q? Step 1: a"}, "no steps"),
    (MathShepherd, {"input": "Find x. 3 ки", "label": "Find x. 3 +"}, "no first step"),
    (MathShepherd, {"input": "q? ки", "label": "q? +"}, "no first step"),
    (MathShepherd, {"input": "Step 1: a ки", "label": "Step 1: a +"}, "no input"),
    (OpenRlhf, {"value": ["+", "-", "+"]}, "steps and labels differ in number"),
    (OpenRlhf, {"value": "+-"}, "value is not a list"),
    (OpenRlhf, {"input": "2 + 3. 5 ки 6 ки"}, "no first step"),
    (OpenRlhf, {"input": "q? Step 1: a", "value": []}, "no placeholder"),
    (RlhFlow, {"conversations": 3}, "conversations are not a list"),
    (RlhFlow, {"conversations": []}, "turns do not alternate"),
    (RlhFlow, {"conversations": chat("q? Step 1: a", "b", roles=("user", "user"))},
     "turns do not alternate"),
    (RlhFlow, {"conversations": ["q"]}, "conversations is not an object"),
    (RlhFlow, {"conversations": [{"role": ["user"], "content": "q"}]}, "turn is not text"),
    (RlhFlow, {"conversations": chat("q? a", "+")}, "no first step"),
    (RlhFlow, {"conversations": chat("Step 1: a", "+")}, "no first turn"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "changed", "reason"), BAD_ROWS)
def test_a_bad_row_is_dropped(source, changed, reason):
    assert dropped_among(source, ROWS[source], {**ROWS[source], **changed}).reason == reason


# ---- where the question ends ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "end", "found"),
    [
        (["q? Step 1: a ", ""], "", ("q?", 0, "Step 1: a")),
        (["q. step 1: a ", ""], "", ("q.", 0, "step 1: a")),
        (["Read Step 1: x. Step 1: a", ""], "", ("Read Step 1: x.", 0, "Step 1: a")),
        (["q ", " r. Step 1: a", ""], "", ("q r.", 1, "Step 1: a")),
        (["q? a", "see Step 1: b", ""], "", ("q? a see", 1, "Step 1: b")),
        (["q? a", "Step 2: b", "see Step 1: c", ""], "", ("q?", 0, "a")),
        (["q? ", " a", ""], "", ("q?", 1, " a")),
        (["q", " r@a", ""], "@", ("q r", 1, "a")),
        (["q? Step 1: r@@a@b", ""], "@@", ("q? Step 1: r", 0, "a@b")),
        (["q? is r? a", ""], "", None),
        (["q? a", ""], "@", None),
        (["q? ", ""], "", None),
        (["", ""], "", None),
    ],
)
def test_the_first_step_is_found_or_the_row_refused(pieces, end, found):
    if found:
        assert find_first_step(pieces, end) == found
    else:
        with pytest.raises(RowError, match="no first step"):
            find_first_step(pieces, end)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("How many? Step 1: as in Step 1: a", "How many?"),
        ("How many?\nStep 1: a, see step 1: b", "How many?"),
        ("Is step 1: step 2: so? Step 1: It is 2", "Is step 1: step 2: so?"),
        ("Step 1: mix. Step 2: bake. How long? Step 1: 5", "Step 1: mix. Step 2: bake. How long?"),
        ("Look at Step 1: of it. Why? Step 1: so", "Look at Step 1: of it. Why?"),
        ("Find x. Step 1: a. Step 1: b", None),
        ("Step 1: or step 1: is it", None),
    ],
)  # fmt: skip
def test_of_several_first_steps_the_one_counts_from_which_steps_count_up(text, question, tmp_path):
    row = {"input": f"{text} ки\nStep 2: b ки", "label": f"{text} +\nStep 2: b -"}
    turns = {"conversations": chat(text, "+", "Step 2: b", "-")}
    for source, written in ((MathShepherd, row), (RlhFlow, turns)):
        (found,) = read(source, tmp_path, written, step_numbers="keep")
        if question is None:
            assert found.reason == "several first steps"
        else:
            assert (found.problem, labels(found)) == (question, [1.0, 0.0])
            assert texts(found)[0] == text.removeprefix(question).strip()


def test_a_number_is_taken_off_the_front_of_a_step_alone():
    assert remove_step_number(" step 12: See Step 3: it") == "See Step 3: it"
    assert remove_step_number("Step 2. Add") == "Add"
    for text in ("Step 3: ", "Steps 3: a", "Step by step: a", "Step 12345: a", "In Step 1: a"):
        assert remove_step_number(text) == text
    assert cut_first_step("footstep 1: no") is None


# ---- Math-Shepherd -------------------------------------------------------------------------------


def test_a_mark_inside_the_question_goes_with_its_label(tmp_path):
    inside = {
        "input": "Given ки x = 3, find 2x. Step 1: 2x = 6 ки\nStep 2: So 7 ки",
        "label": "Given + x = 3, find 2x. Step 1: 2x = 6 +\nStep 2: So 7 -",
    }
    at_the_end = {
        "input": "What is 2x? ки 2x = 6 ки\nStep 2: So 7 ки",
        "label": "What is 2x? - 2x = 6 +\nStep 2: So 7 -",
    }
    first, second = read(MathShepherd, tmp_path, inside, at_the_end)
    assert (first.problem, texts(first)) == ("Given x = 3, find 2x.", ["2x = 6", "So 7"])
    assert (second.problem, texts(second)) == ("What is 2x?", ["2x = 6", "So 7"])
    assert labels(first) == labels(second) == [1.0, 0.0]


def test_text_after_the_last_mark_is_an_unlabelled_step(tmp_path):
    both = {key: SHEPHERD[key] + "\nStep 3: and" for key in ("input", "label")}
    for source, row in ((MathShepherd, both), (OpenRlhf, {**OPENRLHF, "input": both["input"]})):
        (solution,) = read(source, tmp_path, row)
        assert (texts(solution)[2], labels(solution)) == ("and", [1.0, 0.0, None])


def test_the_development_file_is_read_whole():
    file = dev_data("math_shepherd_format.jsonl")
    found = solutions(MathShepherd(str(file)))
    assert len(found) == 156
    assert sum(first_error(s) >= 0 for s in found) == 96  # of MR-GSM8K, wrong solutions alone
    lines = [json.loads(line) for line in file.read_text().split("\n") if line]
    for solution, line in zip(found, lines, strict=True):
        signs = [part.rstrip()[-1] for part in line["label"].split("\nStep ")]
        assert labels(solution) == [float(sign == "+") for sign in signs]
        assert not any("ки" in text or text.startswith("Step") for text in texts(solution))


# ---- OpenRLHF ------------------------------------------------------------------------------------


def test_placeholder_keys_and_chat_markup_are_as_the_user_says(tmp_path):
    written = (
        "<|im_start|>user\nFind x.<|im_end|>\n<|im_start|>assistant\n"
        "x is <extra_0> in the text\n\nx = 1<extra_0>"
    )
    (solution,) = read(
        OpenRlhf, tmp_path,
        {"text": written, "scores": [0.5, 1]},
        placeholder_token="<extra_0>",
        input_key="text",
        label_key="scores",
        question_end="<|im_start|>assistant\n",
    )  # fmt: skip
    assert solution.problem == "Find x."
    assert (texts(solution), labels(solution)) == (["x is", "in the text\nx = 1"], [0.5, 1.0])
    with pytest.raises(ValueError, match="placeholder_token is empty"):
        OpenRlhf("x.jsonl", placeholder_token="")


@pytest.mark.parametrize("value", [["+", "-", " + "], ["-", 1], [0, True]])
def test_a_placeholder_inside_the_question_may_have_a_value(tmp_path, value):
    row = {"input": "Say ки twice? Step 1: a ки\nStep 2: b ки", "value": value}
    (solution,) = read(OpenRlhf, tmp_path, row)
    assert (solution.problem, texts(solution)) == ("Say twice?", ["a", "b"])
    assert labels(solution) == [0.0, 1.0]
    (unlabelled,) = read(OpenRlhf, tmp_path, {**row, "value": [None, 0.5]})
    assert labels(unlabelled) == [None, 0.5]


# ---- RLHFlow -------------------------------------------------------------------------------------


def test_other_ways_to_write_a_chat_are_read(tmp_path):
    turns = chat("q? Step 1: a", "+", "Step 2: b", keys=("from", "value"), roles=("human", "gpt"))
    system = [{"role": "system", "content": "Judge."}]
    one, two = read(RlhFlow, tmp_path, {"messages": turns}, {"messages": system + turns})
    assert (texts(one), labels(one)) == (["a", "b"], [1.0, None])
    assert (two.problem, texts(two), labels(two)) == (one.problem, texts(one), labels(one))


def test_known_problems_divide_the_first_turn_where_steps_have_no_numbers(tmp_path):
    problems = write_lines(
        tmp_path / "problems.jsonl",
        {"problem": "Find x. Then find it again."},
        {"problem": "Find x."},
    )
    rows = (
        {"conversations": chat("Find x. It is 3.", "+")},
        {"conversations": chat("Find x. Then find it again. It is 3.", "+")},
        {"conversations": chat("Find y. It is 3.", "+")},
    )
    short, long, dropped = read(RlhFlow, tmp_path, *rows, problems=problems)
    assert (short.problem, texts(short)) == ("Find x.", ["It is 3."])
    assert (long.problem, texts(long)) == ("Find x. Then find it again.", ["It is 3."])
    assert dropped.reason == "no first step"
    with pytest.raises(ValueError, match="expected a problem as text"):
        none = write_lines(tmp_path / "none.jsonl", {"x": 1})
        read(RlhFlow, tmp_path, *rows, problems=none)


# ---- all three -----------------------------------------------------------------------------------


def as_row(source, question, steps, signs):
    """A row with these steps, each with its number, and these signs."""
    if source is RlhFlow:
        turns = [t for k, pair in enumerate(zip(steps, signs, strict=True), 1)
                 for t in (f"Step {k}: {pair[0]}", pair[1])]  # fmt: skip
        return {"conversations": chat(f"{question} {turns[0]}", *turns[1:])}
    row = shepherd(question, steps, signs)
    return row if source is MathShepherd else {"input": row["input"], "value": signs}


@pytest.mark.parametrize("source", ROWS)
@given(
    steps=st.lists(
        st.tuples(st.text("ab+-? \n\u2028.0123", max_size=12), st.sampled_from(list(SIGNS))),
        min_size=1,
        max_size=6,
    ),
    question=st.text("ab+- ?.01", max_size=12),
)
@settings(max_examples=40)
def test_every_label_stays_with_its_step(source, steps, question, tmp_path_factory):
    row = as_row(source, f"q {question}", *map(list, zip(*steps, strict=True)))
    (solution,) = read(source, tmp_path_factory.getbasetemp(), row, step_numbers="keep")
    assert solution.problem == f"q {question}".strip()
    assert labels(solution) == [SIGNS[sign] for _, sign in steps]
    for number, ((text, _), step) in enumerate(zip(steps, texts(solution), strict=True), start=1):
        assert step.split() == f"Step {number}: {text}".split()
