"""Final answers: found in real texts, and compared."""

import json
import subprocess
import sys
import threading
import time

import pytest
from conftest import dev_data
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.answers import extract_answer, same_answer, stated_answer

STATED = [
    ("So 48+24 = <<48+24=72>>72 clips.\n#### 72", "72"),
    ("... \n#### 1,234", "1234"),
    ("#### Step 1\nTwo pens.\n#### Step 2\nThe answer is 4.", "4"),
    ("#### 7\n\nI hope that helps, all 3 of you.", "7"),
    ("Thus \\boxed{900} dollars, or \\boxed{ \\frac{1}{2} }.", "\\frac{1}{2}"),
    ("so \\boxed{\\{1,2\\}}", "\\{1,2\\}"),
    ("we get $\\boxed 5$.", "5"),
    ("The final answer is $\\boxed{-6}$. I hope it is correct.", "-6"),
    ("The answer is: 18", "18"),
    ("So the answer is 15.", "15"),
    ("The answer is $12.50.", "12.50"),
    ("**Final Answer:** 12 dollars", "12"),
    ("**Answer:** **7**", "7"),
    ("### Final Answer:\nJohn made a total of $114,200 that year.", "114200"),
    ("A: 233", "233"),
    ("Final answer: 2.33", "2.33"),
    ("The answer is 5 + 3 = 8 apples.", "8"),
    ("The answer is \\( x = 4 \\).", "x = 4"),
    ("The answer to the question is Tuesday.", "Tuesday"),
    ("The answer is 5 million dollars.", "5 million"),
    ("The answer is 3. Let me check: the answer is 4.", "4"),
    ("The correct answer is therefore (B).", "(B)"),
]
NOT_STATED = [
    ("Natalia sold 48 / 2 = 24 clips in May, 72 in all.", "72"),
    ("He pays $1,250.50!", "1250.50"),
    ("It falls by -3 to 10-15", "15"),
    ("That is 50% more.", "50%"),
    ("It is x2y4.", None),
    ("It holds 3/4 of it.", "3/4"),
    ("Nothing here.", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "answer"), STATED)
def test_a_stated_answer_is_found(text, answer):
    assert stated_answer(text) == extract_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), NOT_STATED)
def test_the_last_number_is_the_last_resort(text, answer):
    assert stated_answer(text) is None
    assert extract_answer(text) == answer


SAME = [
    ("18", "18.0"),
    ("1,234", "$1234"),
    ("5 apples", "5"),
    ("50%", "50"),
    ("50%", "0.5"),
    ("1/2", "0.5"),
    ("2 1/2", "2.5"),
    ("0.333333", "1/3"),
    ("1e3", "1000"),
    ("-5", "- 5"),
    ("−5", "-5"),
    ("5 million", "5,000,000"),
    ("\\boxed{5}", "5"),
    ("\\frac{1}{2}", "1/2"),
    ("20\\text{ cm}", "20"),
    ("120^\\circ", "120"),
    ("\\$12.50", "12.5"),
    ("\\text{Even}", "even"),
    ("(1,2)", "(1, 2)"),
    ("\\{2,1\\}", "\\{1,2\\}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("x = 5", "5"),
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("[1,2)", "[1, 2)"),
    ("2\\pi", "6.283185"),
    ("5km", "5"),
    ("5 red apples", "5"),
    ("12 cm^2", "12"),
]
DIFFERENT = [
    ("18", "81"),
    ("90000", "900"),
    ("1000000", "1000001"),
    ("3 hours and 30 minutes", "30"),
    ("5 million", "5"),
    ("listen", "silent"),
    ("Tuesday", "Monday"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("x+1", "x-1"),
    ("1/0", "0"),
    ("5x", "5"),
    ("2 pi", "2"),
    ("3i", "3"),
    ("1,2", "12"),
    ("", ""),
    ("1" * 5000, "2" * 5000),
    (None, "5"),
    (None, None),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_equal_answers_are_the_same(a, b):
    assert same_answer(a, b)
    assert same_answer(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_other_answers_are_not(a, b):
    assert not same_answer(a, b)
    assert not same_answer(b, a)


def test_formulas_are_compared_in_any_thread():
    found = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(same_answer(f"x+{n}", f"{n}+x")))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


@pytest.mark.slow
def test_an_endless_formula_counts_as_another_answer_and_hinders_nothing_after_it():
    begin = time.monotonic()
    assert not same_answer("9^{9^{9^{9}}}-x", "1-y", timeout=1)
    assert time.monotonic() - begin < 30
    assert same_answer("y+7", "7+y")


@pytest.mark.slow
def test_a_script_without_a_main_guard_can_compare_formulas():
    code = "from prm_lightning.answers import same_answer\nprint(same_answer('x+1', '1+x'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_text_makes_plain_comparison_fail(a, b):
    assert same_answer(a, a) == same_answer(a, a, timeout=1)
    extract_answer(a + b)
    extract_answer(f"The answer is {a}")
    extract_answer(f"\\boxed{{{a}")


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "${:,}", "{} km", "{}.00", "**{:,}**"]))
def test_a_number_survives_how_it_is_written(number, style):
    text = "The answer is " + style.format(number)
    assert same_answer(extract_answer(text), str(number))
    assert not same_answer(extract_answer(text), str(number + 1))


def test_answers_of_real_solutions_are_found():
    """The predictions of OpenMathInstruct-1 were extracted by its authors."""
    rows = read("openmathinstruct1.jsonl")
    rows = [row for row in rows if row["predicted_answer"] is not None]
    assert all(
        same_answer(extract_answer(row["generated_solution"]), row["predicted_answer"])
        for row in rows
    )


@pytest.mark.parametrize("name", ["best_of_n_qwen8.jsonl", "best_of_n_mixed.jsonl"])
def test_real_solutions_are_judged_as_the_data_says(name):
    samples = [(row["answer"], sample) for row in read(name) for sample in row["samples"]]
    otherwise = [
        (answer, sample)
        for answer, sample in samples
        if same_answer(extract_answer("\n".join(sample["steps"])), answer) != sample["is_correct"]
    ]
    # The data take 27,000 for 000, and some numbers of more than four digits for wrong.
    assert len(otherwise) / len(samples) < 0.04
    assert not any(sample["is_correct"] for _, sample in otherwise)


def read(name):
    lines = dev_data(name).read_bytes().split(b"\n")
    return [json.loads(line) for line in lines if line.strip()]
