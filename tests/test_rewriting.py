"""Steps rewritten with other numbers: what is changed, and what is left alone as unclear."""

from fractions import Fraction

import pytest

from prm_lightning.arithmetic import Token
from prm_lightning.sources.rewriting import Change, Ledger, follow, make_change, uses_commas, work


def ledger(known=(), changed=None, commas="no"):
    return Ledger(
        {Fraction(v) for v in known},
        {Fraction(a): Fraction(b) for a, b in (changed or {}).items()},
        commas == "yes",
    )


def values(tokens):
    return [token.value for token in tokens if isinstance(token, Token)]


def test_a_step_is_read_into_equations_and_loose_numbers():
    step = work("2. Of 5 bags, 3*4 = 12 are full, 1+1 = 3 is wrong.")
    assert [e.result.value for e in step.equations] == [12]
    assert values(step.loose) == [5, 1, 1, 3]
    assert step.is_clear
    assert not work("The 2nd has 3*4 = 12.").is_clear
    assert work("x").numbers == frozenset()


@pytest.mark.parametrize(
    ("text", "stated", "written"),
    [
        ("So 3*4 = 12, 12 in all.", 14, "So 3*4 = 14, 14 in all."),
        ("First 12: 3*4 = 12.", 14, "First 14: 3*4 = 14."),
        ("3*4 = 12 and 12+1 = 13", 14, "3*4 = 14 and 14+1 = 15"),
        ("It is <<3*4=12>>12.", 14, "It is <<3*4=14>>14."),
        ("20 * 5% = 1", 100, None),  # true if 5% is read as 5
        ("3*4 = 12", Fraction(25, 2), None),  # no decimals before
        ("3*4 = 12", 12, None),
    ],
)
def test_a_stated_result_is_put_wherever_it_stands(text, stated, written):
    step = work(text)
    change = Change(step.equations[0], stated=Fraction(stated))
    assert make_change(step, change, ledger()) == written


def test_a_result_that_the_problem_gives_too_is_not_changed():
    step = work("3*4 = 12, and 12 are given.")
    change = Change(step.equations[0], stated=Fraction(14))
    assert make_change(step, change, ledger(known=[12])) is None


def test_thousands_get_commas_outside_of_marks():
    step = work("That is 30*30 = <<30*30=900>>900.")
    change = Change(step.equations[0], stated=Fraction(1900))
    written = make_change(step, change, ledger(commas="yes"))
    assert written == "That is 30*30 = <<30*30=1900>>1,900."
    assert uses_commas(["a", "1,200"])
    assert not uses_commas(["1200", "1, 200", "12,5"])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("12+5 = 17, and 17*2 = 34.", "14+5 = 19, and 19*2 = 38."),
        ("5 of them and 12 more.", "5 of them and 14 more."),
        ("5*2 = 10.", "5*2 = 10."),  # does not use it
        ("12*$2.50 = $30.00", "14*$2.50 = $35.00"),  # 2.50 is a number of the problem
        ("12/3 = 4", None),  # 14/3 cannot be written so
        ("12-13+5 = 4", None),  # where does 13 come from?
        ("Half of it is 6.", None),
        ("The 2nd has 12.", None),
        ("12*5 = 60 = 30*2", None),  # the sides no longer agree
        ("5+7 = 12", None),  # another way to a 12
        ("5-12 = -7", None),  # holds, but its result is not a number that stands alone
        ("20-12 = 8", "20-14 = 6"),
    ],
)
def test_what_follows_is_followed_or_not_at_all(text, written):
    step = work(text)
    assert follow(step, ledger(known=[5, 20, "2.5"], changed={12: 14})) == written


def test_the_ledger_keeps_what_was_changed_on_the_way():
    book = ledger(known=[5], changed={12: 14})
    assert follow(work("12+5 = 17"), book) == "14+5 = 19"
    assert follow(work("17*2 = 34"), book) == "19*2 = 38"
    assert follow(work("5*2 = 10"), book) == "5*2 = 10"
    assert follow(work("34+10 = 44"), book) == "38+10 = 48"
