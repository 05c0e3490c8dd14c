"""Right solutions broken in one step: the label is right, whatever the solution."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_lightning.arithmetic import find_equations, find_numbers, holds
from prm_lightning.sources.corrupted import KINDS, RIGHT, Corrupted
from prm_lightning.sources.gsm8k import Gsm8k
from prm_lightning.sources.mixture import SourceSpec, read_mixture
from prm_lightning.types import Dropped, Solution, Source, Step

PROBLEM = (
    "Natalia sold 48 clips in April, and half as many in May. Each costs $3. What did she earn?"
)
TEXTS = (
    "In May she sold 48/2 = 24 clips.",
    "In both months these are 48+24 = 72 clips.",
    "She earned 72*$3 = $216.",
    "#### 216",
)


@dataclass
class Fixed:
    """A source of the rows it is given."""

    rows: list

    def read(self):
        yield from self.rows


def right(*texts, problem=PROBLEM, id="a", answer=None):
    return Solution(problem, tuple(Step(t, 1.0) for t in texts), "s", id, answer=answer)


def broken(*solutions, **options):
    return list(Corrupted(Fixed(list(solutions)), right=False, **options).read())


def labels(solution):
    return [step.label for step in solution.steps]


def texts(solution):
    return [step.text for step in solution.steps]


def test_it_is_a_source_that_passes_right_solutions_on():
    source = Corrupted(Fixed([right(*TEXTS), Dropped("f:1", "bad", "f:1: bad")]), n=2, name="mine")
    assert isinstance(source, Source)
    first, *copies, dropped = source.read()
    assert (first.id, texts(first), labels(first)) == (f"a-{RIGHT}", list(TEXTS), [1.0] * 4)
    assert len(copies) == 2
    assert {s.source for s in (first, *copies)} == {"mine"}
    assert dropped.reason == "bad"
    assert len(set(map(tuple, map(texts, (first, *copies))))) == 3


def test_a_changed_number_is_carried_on_to_the_end():
    options = {"kinds": ["changed_number"], "n": 60, "seed": 1}
    copies = [s for s in broken(right(*TEXTS), **options) if labels(s)[0] == 0]
    assert copies
    for copy in copies:
        may = int(re.fullmatch(r"In May she sold 48/2 = (\d+) clips\.", texts(copy)[0])[1])
        assert may != 24
        assert texts(copy)[1:] == [
            f"In both months these are 48+{may} = {48 + may} clips.",
            f"She earned {48 + may}*$3 = ${3 * (48 + may)}.",
            f"#### {3 * (48 + may)}",
        ]
        assert labels(copy) == [0.0] * 4


def test_the_prefix_stays_as_it_was():
    solution = right(*TEXTS)
    for copy in broken(solution, n=40):
        at = labels(copy).index(0.0)
        assert copy.steps[:at] == solution.steps[:at]
        assert all(a != b for a, b in zip(texts(copy)[at:], TEXTS[at:], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_what_it_says(kind):
    for copy in broken(right(*TEXTS), kinds=[kind], n=30):
        at = labels(copy).index(0.0)
        assert copy.id.endswith(kind)
        step = texts(copy)[at]
        found = [holds(equation) for equation in find_equations(step)]
        if kind == "wrong_answer":
            assert (at, found) == (3, [])
        else:
            assert found == [kind != "changed_number"]
        signs = re.findall(r"[-+*/]", step), re.findall(r"[-+*/]", TEXTS[at])
        assert (signs[0] != signs[1]) == (kind == "changed_operation")


def test_what_cannot_be_followed_is_left_as_it_was_and_unlabelled():
    hidden = right(TEXTS[0], "Twice that is 48 more, or 96 in all.", "#### 96")
    copies = [s for s in broken(hidden, n=20, kinds=["changed_number"]) if labels(s)[0] == 0]
    assert copies
    for copy in copies:
        assert labels(copy) == [0.0, None, None]
        assert texts(copy)[1:] == texts(hidden)[1:]


def test_a_number_that_stands_for_two_things_is_not_followed():
    """The problem has a 24 of its own, so that nobody knows which one is meant later."""
    ambiguous = right(
        "In May she sold 48/2 = 24 clips.", "A box holds 24 clips.", "#### 24",
        problem="She sold 48 clips, then half as many. A box holds 24. How many boxes?",
    )  # fmt: skip
    for copy in broken(ambiguous, n=10, kinds=["changed_number"]):
        assert labels(copy) == [0.0, None, None]


def test_a_step_that_does_not_use_the_change_keeps_no_label():
    solution = right(
        "Ann has 3*4 = 12 pears.", "Ben has 5*7 = 35 pears.", "Both have 12+35 = 47.", "#### 47",
        problem="Ann has 3 bags of 4 pears, Ben 5 bags of 7. How many pears have both?",
    )  # fmt: skip
    copies = [s for s in broken(solution, n=30) if labels(s)[0] == 0]
    assert copies
    for copy in copies:
        assert labels(copy) == [0.0, None, 0.0, 0.0]
        assert texts(copy)[1] == texts(solution)[1]


def test_an_error_that_changes_no_answer_is_left_out():
    texts = ("Ann has 3*4 = 12 pears.", "Ben has 5*7 = 35 pears.", "#### 35")
    problem = "Ann has 3 bags of 4 pears, Ben 5 bags of 7. How many pears has Ben?"
    copies = broken(right(*texts, problem=problem), n=30, kinds=["changed_number"])
    assert copies
    assert {labels(copy)[0] for copy in copies} == {1.0}


def test_numbers_are_written_as_before():
    solution = right(
        "The hall costs $1,200.50*2 = $2,401.00 and 20% * 50 = 10 guests pay.",
        "With the food that is $2,401.00+$99.00 = $2,500.00.",
        "#### 2,500.00",
        problem="A hall costs $1,200.50 an hour. 20% of 50 guests pay. The food is $99.00.",
    )
    copies = broken(solution, n=40, kinds=["changed_number", "miscopied_quantity"])
    assert len(copies) > 20
    for copy in copies:
        for text, before in zip(texts(copy), texts(solution), strict=True):
            shape = r"\$?\d[\d,.]*\d%?|\d+%?"
            assert re.sub(shape, "N", text) == re.sub(shape, "N", before)
            for money in re.findall(r"\$([\d,.]*\d)", text):
                assert re.fullmatch(r"\d{1,3}(,\d{3})*\.\d\d", money), text


def test_calculator_marks_change_with_the_text_around_them():
    solution = right(
        "She has 600*2 = <<600*2=1200>>1,200 pears.",
        "Then 1,200+5=<<1200+5=1205>>1,205.",
        "#### 1,205",
        problem="She doubles 600 pears and finds 5 more. How many?",
    )
    for copy in broken(solution, n=40):
        for text in texts(copy):
            outside = re.sub(r"<<.*?>>", "", text)
            for mark in re.findall(r"<<(.*?)>>", text):
                assert mark in outside.replace(",", "").replace(" ", "")


def test_equal_meanings_are_no_mistakes():
    """A percentage may be read as 0.05 or as 5: neither reading is called wrong."""
    solution = right("The tax is 20 * 5% = 1 dollar.", "#### 1", problem="5% of 20 dollars?")
    for copy in broken(solution, n=50, kinds=["changed_number"]):
        assert "= 100 dollar" not in texts(copy)[0]
        assert not any(holds(equation) for equation in find_equations(texts(copy)[0]))


def test_wrong_unlabelled_and_unbreakable_solutions_are_counted_as_dropped():
    wrong = Solution("p", (Step("1+1 = 3", 0.0),), "s", "w")
    half = Solution("p", (Step("1+1 = 2", 1.0), Step("2", None)), "s", "h")
    words = right("It is even.", "So yes.", id="v")
    rows = broken(wrong, half, words)
    assert [row.reason for row in rows] == ["not a right solution"] * 2 + ["nothing to break"]
    assert all("s " in row.message for row in rows)
    (passed,) = Corrupted(Fixed([words])).read()
    assert passed.id == f"v-{RIGHT}"


def test_the_same_seed_gives_the_same_copies_whatever_else_there_is():
    one, two = right(*TEXTS, id="a"), right(*TEXTS, id="b", problem=PROBLEM + " Now?")
    assert broken(one, two, n=3)[:3] == broken(one, n=3) == broken(two, one, n=3)[3:]
    assert broken(one, n=3, seed=1) != broken(one, n=3, seed=2)


@pytest.mark.parametrize("options", [{"n": 0}, {"kinds": []}, {"kinds": ["typo"]}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"Corrupted: n=.* must be 1 or more.*changed_number"):
        Corrupted(Fixed([]), **options)


# ---- what no solution may break ------------------------------------------------------------------

SENTENCES = (
    "Then there are {} of them.", "{}", "She pays ${}.", "So {} is what is left, as we know.",
    "2. In all {} eggs.",
)  # fmt: skip


@st.composite
def chains(draw):
    """A right solution: each equation uses results before it or numbers of the problem."""
    given = draw(st.lists(st.integers(1, 400), min_size=2, max_size=4))
    values = [Fraction(v) for v in given]
    steps = []
    for _ in range(draw(st.integers(1, 5))):
        a, b = (values[draw(st.integers(0, len(values) - 1))] for _ in range(2))
        sign = draw(st.sampled_from("+-*/"))
        if sign == "/" and (b == 0 or (a / b * 100).denominator != 1):
            sign = "*"
        result = {"+": a + b, "-": abs(a - b), "*": a * b}.get(sign)
        result = a / b if result is None else result
        if sign == "-" and b > a:
            a, b = b, a
        if (result * 100).denominator != 1 or result > 10**7:
            continue
        show = [f"{float(v):,.2f}".removesuffix(".00") for v in (a, b, result)]
        gap = draw(st.sampled_from(["", " "]))
        equation = f"{show[0]}{gap}{sign}{gap}{show[1]}{gap}={gap}{show[2]}"
        steps.append(draw(st.sampled_from(SENTENCES)).format(equation))
        values.append(result)
    last = f"{float(values[-1]):,.2f}".removesuffix(".00")
    problem = "Given are " + ", ".join(f"{v:,}" for v in given) + ". What is it?"
    return right(*steps, f"#### {last}", problem=problem)


@given(solution=chains(), seed=st.integers(0, 99))
def test_a_right_step_is_never_called_wrong(solution, seed):
    """The broken step is false by itself, or says another number than the right one does."""
    for copy in broken(solution, n=4, seed=seed):
        if isinstance(copy, Dropped):
            continue
        wrong = [k for k, label in enumerate(labels(copy)) if label == 0]
        before, after = texts(solution)[wrong[0]], texts(copy)[wrong[0]]
        false = any(not holds(equation) for equation in find_equations(after))
        numbers = [[t.value for t in find_numbers(text)] for text in (before, after)]
        assert false or numbers[0] != numbers[1]
        assert copy.steps[: wrong[0]] == solution.steps[: wrong[0]]
        assert {*labels(copy)[wrong[0] :]} <= {0.0, None}
        for k in wrong:  # what is called wrong says other numbers than the right solution
            numbers = [
                [t.value for t in find_numbers(s)] for s in (texts(solution)[k], texts(copy)[k])
            ]
            assert numbers[0] != numbers[1]


@settings(max_examples=50)
@given(solution=chains(), seed=st.integers(0, 99))
def test_a_later_step_follows_from_the_broken_one(solution, seed):
    """Every rewritten equation behind the broken step holds, of numbers that were said before."""
    for copy in broken(solution, n=4, seed=seed):
        if isinstance(copy, Dropped):
            continue
        at = labels(copy).index(0.0)
        for k in range(at + 1, len(copy.steps)):
            if labels(copy)[k] == 0.0:
                assert all(holds(equation) for equation in find_equations(texts(copy)[k]))


# ---- GSM8K ---------------------------------------------------------------------------------------


def gsm8k(tmp_path, *rows, **options):
    file = tmp_path / "gsm.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Gsm8k(str(file), **options)


def test_gsm8k_lines_are_right_steps(tmp_path):
    row = {"question": "How many?", "answer": "He has 2*3=<<2*3=6>>6.\n\nSo 6.\n#### 1,006"}
    (solution,) = gsm8k(tmp_path, row).read()
    assert texts(solution) == ["He has 2*3=6.", "So 6.", "#### 1,006"]
    assert labels(solution) == [1.0] * 3
    assert (solution.problem, solution.answer, solution.source) == ("How many?", "1,006", "gsm")
    (kept,) = gsm8k(tmp_path, row, calculator_marks="keep", name="g").read()
    assert (texts(kept)[0], kept.source, kept.id) == ("He has 2*3=<<2*3=6>>6.", "g", "g:0")


def test_bad_gsm8k_rows_are_counted(tmp_path):
    rows = [{"question": "q", "answer": "a"}, {"question": "", "answer": "a"}, {"question": "q"},
            {"question": "q", "answer": 3}, {"question": "q", "answer": " \n "}]  # fmt: skip
    found = list(gsm8k(tmp_path, *rows).read())
    assert [type(row) for row in found] == [Solution] + [Dropped] * 4
    with pytest.raises(ValueError, match=r"prompt.*expected question, answer"):
        list(gsm8k(tmp_path, {"prompt": "p"}).read())


@pytest.mark.parametrize("marks", ["remove", "keep"])
def test_gsm8k_is_broken_and_mostly_followed_to_the_end(marks):
    base = Gsm8k(str(dev_data("gsm8k_train_slice.jsonl")), calculator_marks=marks)
    source = SourceSpec(Corrupted(base, n=1, name="c"), limit=600)
    solutions = read_mixture([source]).solutions
    wrong = [s for s in solutions if not s.id.endswith(RIGHT)]
    assert len(wrong) > 0.98 * len(solutions) / 2
    kinds = Counter(s.id.rsplit("-", 1)[1] for s in wrong)
    assert min(kinds[kind] for kind in KINDS) > 0.1 * len(wrong)
    assert sum(labels(s)[-1] == 0.0 for s in wrong) > 0.7 * len(wrong)


@pytest.mark.slow
def test_position_says_little_of_the_label():
    """Of the solutions right so far, about the same share goes wrong at each step."""
    base = Gsm8k(str(dev_data("gsm8k_train_slice.jsonl")))
    rows = [s for s in SourceSpec(Corrupted(base, n=3)).source.read() if len(s.steps) == 4]
    reached, went_wrong = Counter(), Counter()
    for row in rows:
        at = labels(row).index(0.0) if 0.0 in labels(row) else len(row.steps)
        reached.update(range(min(at + 1, len(row.steps))))
        went_wrong[at] += 1
    shares = [went_wrong[k] / reached[k] for k in range(4)]
    assert max(shares) - min(shares) < 0.15, shares
