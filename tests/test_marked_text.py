"""Where a question ends and its first step begins."""

import pytest

from prm_lightning.sources.fields import RowError
from prm_lightning.sources.marked_text import find_first_step
from prm_lightning.text import cut_first_step, remove_step_number


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


def test_a_number_is_taken_off_the_front_of_a_step_alone():
    assert remove_step_number(" step 12: See Step 3: it") == "See Step 3: it"
    assert remove_step_number("Step 2. Add") == "Add"
    for text in ("Step 3: ", "Steps 3: a", "Step by step: a", "Step 12345: a", "In Step 1: a"):
        assert remove_step_number(text) == text
    assert cut_first_step("footstep 1: no") is None
