"""Text work: folding, keys of problems, calculator marks."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.text import (
    fold_newlines,
    normalise_problem,
    remove_calculator_marks,
)

MESSY = st.text(alphabet="ab \t\r\n\xa0\u2028.", max_size=30)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("a\r\n\r\nb", "a\nb"),
        ("\n\n a \n \t \n\n b\n", "a \n b"),
        ("def f():\n\n    return 1", "def f():\n    return 1"),
        ("a\rb", "a\nb"),
        ("a\u2028b", "a\u2028b"),
        (" \n ", ""),
    ],
)
def test_newlines_are_folded(text, folded):
    assert fold_newlines(text) == folded


@given(text=MESSY)
def test_a_folded_text_has_no_blank_line_and_loses_only_white_space(text):
    folded = fold_newlines(text)
    assert not re.search(r"\n\s*\n", folded)
    assert folded == folded.strip() == fold_newlines(folded)
    assert "".join(folded.split()) == "".join(text.split())


SAME = [
    ("John's 19-year-old SON.  How old?", "john’s 19 year old son. How  old"),
    ("It costs $1,250.\xa0 Why?", "it costs 1250. why"), ("What is 2+3?", "What is 2 + 3 ?"),
    ("“Yes,” she said…", '"Yes", she said'),
    ("Un élève a 3 pâtés.", unicodedata.normalize("NFD", "Un élève a 3 pâtés.")),
    ("小明有５个苹果，吃了２个。", "小明有5个苹果,吃了2个"),
    ("What is 7 \u2212 2?", "What is 7 - 2?"),
    ("What is 7\u20132?", "What is 7 - 2?"), ("What is\u200b 7\u00ad5\ufeff?", "What is 75?"),
    ("ＡＢＣ ３×４", "abc 3 * 4"), ("Is 3½ = 7÷2?", "Is 3 1/2 = 7/2?"),
    ("Find x² + 1.", "Find x^2 + 1."), ("Find f′(2) and y''.", "Find f'(2) and y''"),
    ("What is 3 · 4 — 2?", "What is 3 * 4 - 2?"), ("Is a ≠ b?", "Is a =\u0338 b?"),
    ("1\u202f000 or 1’000", "1,000 or 1000"), ("f´(2)", "f'(2)"),
    ("What is ٣ + ५?", "What is 3 + 5?"),
    ("Ann’s dogs’ food 'A'!", "Ann's dogs' food \"A\""), ("Wow!! Add x-3.", "wow add x - 3"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_copies_of_a_problem_share_a_key(one, other):
    assert normalise_problem(one) == normalise_problem(other)


OTHER = [
    ("What is 2+3?", "What is 2-3?"), ("((1 + 2) * 3) =", "(1 + (2 * 3)) ="),
    ("He has 1.5 l", "He has 15 l"), ("He has 1.5 l", "He has 1 5 l"), ("-7 * 3", "7 * 3"),
    ("1 2", "12"), ("???", "!!!"), ("What is 5!?", "What is 5?"), ("What is 5!!?", "What is 5!?"),
    ("What is (n - 1)!?", "What is (n - 1)?"), ("What is n!?", "What is n?"),
    ("Is 5 != 3?", "Is 5 = 3?"), ("Find f'(2)", "Find f(2)"), ("Find f''(2)", "Find f'(2)"),
    ("Find x²", "Find x2"), ("Is it 3½?", "Is it 31/2?"), ("What is 10₂ + 1?", "What is 102 + 1?"),
    ("x-3", "x 3"), ("求f'(2)的值", "求f(2)的值"), ("求x-3的值", "求x 3的值"), ("求n!", "求n"),
    ("Find (fg)'(2)", "Find (fg)(2)"), ("Find sin'(x)", "Find sin(x)"), ("5' tall", "5 tall"),
    ("Is 5 # 3 so?", "Is 5 @ 3 so?"), ("What is |x|!?", "What is |x|?"), ("—5 + 3", "5 + 3"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_different_problems_have_different_keys(one, other):
    assert normalise_problem(one) != normalise_problem(other)


@given(text=st.text(max_size=40))
def test_a_key_depends_on_neither_case_nor_white_space(text):
    assert normalise_problem(text) == normalise_problem(f"  {text.casefold()}\n")
    assert normalise_problem(text) == normalise_problem(re.sub(r"\s", "\n ", text))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("18 * 10 =<<18*10=180>>180 animals", "18 * 10 =180 animals"),
        ("<<1/2=.5>>.5 and <<(3+4)*2=14>>14", ".5 and 14"),
        ("83 ml = <<83.33>>83.33 ml", "83 ml = 83.33 ml"),
        ("x << 3 >> 1 and cout << x;", "x << 3 >> 1 and cout << x;"),
        ("1 << 2", "1 << 2"),
    ],
)
def test_calculator_marks_are_removed(text, left):
    assert remove_calculator_marks(text) == left
