"""RLHFlow chats: the user's turns are steps, and what answers each is its label."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import labels, texts, write_lines

from prm_lightning.sources import RlhFlow

SIGNS = {"+": 1.0, "-": 0.0, " + ": 1.0, "0.75": 0.75, "1e-05": 1e-05}


def chat(*turns, keys=("role", "content"), roles=("user", "assistant")):
    return [dict(zip(keys, (roles[k % 2], text), strict=True)) for k, text in enumerate(turns)]


GOOD = {"conversations": chat("2 + 3? Step 1: 2+3=<<2+3=5>>5", "+", "Step 2: So 6.", "-")}


def read(tmp_path, *rows, **options):
    return list(RlhFlow(write_lines(tmp_path / "r.jsonl", *rows), **options).read())


def test_a_row_becomes_a_solution(tmp_path):
    (solution,) = read(tmp_path, GOOD)
    assert (solution.problem, solution.source, solution.id) == ("2 + 3?", "r", "r:0")
    assert (texts(solution), labels(solution)) == (["2+3=5", "So 6."], [1.0, 0.0])


def test_other_ways_to_write_a_chat_are_read(tmp_path):
    turns = chat("q? Step 1: a", "+", "Step 2: b", keys=("from", "value"), roles=("human", "gpt"))
    system = [{"role": "system", "content": "Judge."}]
    one, two = read(tmp_path, {"messages": turns}, {"messages": system + turns})
    assert (texts(one), labels(one)) == (["a", "b"], [1.0, None])
    assert (two.problem, texts(two), labels(two)) == (one.problem, texts(one), labels(one))


def test_known_problems_divide_the_first_turn_where_steps_have_no_numbers(tmp_path):
    problems = write_lines(
        tmp_path / "problems.jsonl",
        {"problem": "Find x. Then find it again."},
        {"problem": "Find x."},
        {"problem": None},
        "no row",
    )
    rows = (
        {"conversations": chat("Find x. It is 3.", "+")},
        {"conversations": chat("Find x. Then find it again. It is 3.", "+")},
        {"conversations": chat("Find y. It is 3.", "+")},
    )
    short, long, dropped = read(tmp_path, *rows, problems=problems)
    assert (short.problem, texts(short)) == ("Find x.", ["It is 3."])
    assert (long.problem, texts(long)) == ("Find x. Then find it again.", ["It is 3."])
    assert dropped.reason == "no first step"
    with pytest.raises(ValueError, match="no row of problems="):
        read(tmp_path, *rows, problems=write_lines(tmp_path / "none.jsonl", {"x": 1}))


@given(
    st.lists(
        st.tuples(st.text("ab+- .\n", max_size=9), st.sampled_from(list(SIGNS))),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=40)
def test_every_label_stays_with_its_step(tmp_path_factory, steps):
    turns = [t for k, (s, sign) in enumerate(steps, 1) for t in (f"Step {k}: {s}", sign)]
    turns[0] = f"A question: {turns[0]}"
    path = write_lines(tmp_path_factory.getbasetemp() / "r.jsonl", {"conversations": chat(*turns)})
    (solution,) = RlhFlow(path, step_numbers="keep").read()
    assert labels(solution) == [SIGNS[sign] for _, sign in steps]
    for number, ((text, _), step) in enumerate(zip(steps, texts(solution), strict=True), start=1):
        assert step.split() == f"Step {number}: {text}".split()


@pytest.mark.parametrize(
    ("conversations", "reason"),
    [
        (None, "conversations are not a list"),
        ([], "turns do not alternate"),
        (chat("q? Step 1: a", "+", roles=("assistant", "user")), "turns do not alternate"),
        (chat("q? Step 1: a", "b", roles=("user", "user")), "turns do not alternate"),
        (["q"], "conversations is not an object"),
        ([{"role": "user", "content": None}], "turn is not text"),
        ([{"role": ["user"], "content": "q? Step 1: a"}], "turn is not text"),
        (chat("q? Step 1: a", "good"), "label outside [0, 1]"),
        (chat("q? Step 1: a", "nan"), "label outside [0, 1]"),
        (chat("q? a", "+"), "no first step"),
        (chat("Step 1: a", "+"), "no first turn"),
    ],
)
def test_a_bad_row_is_dropped(tmp_path, conversations, reason):
    _, dropped = read(tmp_path, GOOD, {"conversations": conversations})
    assert dropped.reason == reason
    assert dropped.message.startswith(f"{tmp_path}/r.jsonl:2: ")
    assert len(dropped.message.splitlines()) == 1
