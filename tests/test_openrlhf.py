"""OpenRLHF rows: values go to the steps whose placeholders they stand for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import labels, texts, write_lines

from prm_lightning.sources import OpenRlhf

GOOD = {"input": "2 + 3? Step 1: 2+3=<<2+3=5>>5 ки\nStep 2: So 6. ки", "value": ["+", "-"]}


def read(tmp_path, *rows, **options):
    return list(OpenRlhf(write_lines(tmp_path / "o.jsonl", *rows), **options).read())


def test_a_row_becomes_a_solution(tmp_path):
    (solution,) = read(tmp_path, GOOD)
    assert (solution.problem, solution.source, solution.id) == ("2 + 3?", "o", "o:0")
    assert (texts(solution), labels(solution)) == (["2+3=5", "So 6."], [1.0, 0.0])
    (kept,) = read(tmp_path, GOOD, calculator_marks="keep", step_numbers="keep")
    assert texts(kept) == ["Step 1: 2+3=<<2+3=5>>5", "Step 2: So 6."]


def test_placeholder_keys_and_chat_markup_are_as_the_user_says(tmp_path):
    chat = (
        "<|im_start|>user\nFind x.<|im_end|>\n<|im_start|>assistant\n"
        "x is <extra_0> in the text\n\nx = 1<extra_0>"
    )
    (solution,) = read(
        tmp_path,
        {"text": chat, "scores": [0.5, 1]},
        placeholder_token="<extra_0>",
        input_key="text",
        label_key="scores",
        question_end="<|im_start|>assistant\n",
    )
    assert solution.problem == "Find x."
    assert (texts(solution), labels(solution)) == (["x is", "in the text\nx = 1"], [0.5, 1.0])


@pytest.mark.parametrize("value", [["+", "-", "+"], ["-", "+"]])
def test_a_placeholder_inside_the_question_may_have_a_value(tmp_path, value):
    row = {"input": "Say ки twice? Step 1: a ки\nStep 2: b ки", "value": value}
    (solution,) = read(tmp_path, row)
    assert (solution.problem, texts(solution)) == ("Say twice?", ["a", "b"])
    assert labels(solution) == [0.0, 1.0]


VALUES = {"+": 1.0, "-": 0.0, " + ": 1.0, "0.25": 0.25, 0.5: 0.5, 1: 1.0, None: None}


@given(
    st.lists(st.tuples(st.text("ab+- .\n", max_size=9), st.sampled_from(list(VALUES))), max_size=6)
)
@settings(max_examples=40)
def test_every_value_stays_with_its_step(tmp_path_factory, steps):
    text = "q? " + "".join(f"Step {k}: {s}@" for k, (s, _) in enumerate(steps, start=1))
    row = {"input": text + "Step 99: and so on", "value": [value for _, value in steps]}
    path = tmp_path_factory.getbasetemp() / "o.jsonl"
    (found,) = OpenRlhf(write_lines(path, row), placeholder_token="@", step_numbers="keep").read()
    if not steps:
        assert found.reason == "no placeholder"
        return
    assert labels(found) == [*(VALUES[value] for _, value in steps), None]
    assert [text.split()[1] for text in texts(found)] == [
        f"{k}:" for k in [*range(1, len(steps) + 1), 99]
    ]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"value": ["+"]}, "steps and labels differ in number"),
        ({"value": ["+", "-", "+"]}, "steps and labels differ in number"),
        ({"value": []}, "steps and labels differ in number"),
        ({"value": "+-"}, "value is not a list"),
        ({"value": ["+", "good"]}, "label outside [0, 1]"),
        ({"value": ["+", "2.0"]}, "label outside [0, 1]"),
        ({"value": [1, 2]}, "label outside [0, 1]"),
        ({"value": [1, float("nan")]}, "label outside [0, 1]"),
        ({"input": None}, "input is not text"),
        ({"input": "2 + 3. 5 ки 6 ки"}, "no first step"),
        ({"input": "q? Step 1: a", "value": []}, "no placeholder"),
    ],
)
def test_a_bad_row_is_dropped(tmp_path, changed, reason):
    _, dropped = read(tmp_path, GOOD, {**GOOD, **changed})
    assert dropped.reason == reason
    assert dropped.message.startswith(f"{tmp_path}/o.jsonl:2: ")


def test_an_empty_placeholder_is_an_error():
    with pytest.raises(ValueError, match="placeholder_token is empty"):
        OpenRlhf("x.jsonl", placeholder_token="")
