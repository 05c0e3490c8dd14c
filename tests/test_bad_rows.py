"""Bad input, the same for every source: one clear line or a counted drop, and no label moved.

The text of every step says what its label is: ``r…`` is right, ``w…`` is wrong.
"""

import copy
import json
import signal
from collections.abc import Callable
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import chat, prm800k_row, prm800k_step, shepherd, step_rows

from prm_lightning.sources import (
    Gsm8k,
    Labelled,
    MathShepherd,
    OpenRlhf,
    Prm800k,
    ProcessBench,
    RlhFlow,
    Stepwise,
    open_source,
)
from prm_lightning.sources.mixture import SourceSpec, read_mixture
from prm_lightning.sources.rewards import se_rewards
from prm_lightning.types import Dropped, Solution

LIMIT = 20  # seconds that reading one small file may take
STEPS = ["r0", "r1", "w2"]
RIGHT = {"r": True, "w": False}


def labels_of(texts):
    """The label of each step by what it says; a blank one is right."""
    return [RIGHT[text.strip()[:1] or "r"] for text in texts]


def first_wrong(texts):
    return next((k for k, label in enumerate(labels_of(texts)) if not label), -1)


def stepwise(texts):
    return [{"prompt": "q?", "completions": texts, "labels": labels_of(texts)}]


def attempts(texts):
    whole = [text.replace(" ", "\n", 1) for text in texts]  # the lines of one attempt
    return [{"prompt": "q?", "completions": whole, "labels": labels_of(texts)}]


def whole_rows(texts):
    weights = [1.0] * len(texts)
    known = {"weights": weights, "source": "s", "id": "an id"}
    return [{"problem": "q?", "steps": texts, "labels": labels_of(texts), **known}]


def processbench(texts):
    known = {"id": "an id", "final_answer_correct": False, "generator": "g"}
    return [{"problem": "q?", "steps": texts, "label": first_wrong(texts), **known}]


def prefixes(texts):
    return step_rows("q?", list(zip(texts, map(int, labels_of(texts)), strict=True)))


def signs(texts):
    return ["+" if label else "-" for label in labels_of(texts)]


def math_shepherd(texts):
    return [shepherd("q?", texts, signs(texts))]


def openrlhf(texts):
    return [{"input": shepherd("q?", texts, signs(texts))["input"], "value": signs(texts)}]


def rlhflow(texts):
    says = [f"Step {k}: {text}" for k, text in enumerate(texts, start=1)]
    says[0] = f"q? {says[0]}"
    return [{"conversations": chat(*chain(*zip(says, signs(texts), strict=True)))}]


def prm800k(texts):
    ratings = [1 if label else -1 for label in labels_of(texts)]
    steps = [
        prm800k_step((text, rating), ("w alternative", -1), chosen=0)
        for text, rating in zip(texts, ratings, strict=True)
    ]
    return [prm800k_row(*steps, question={"problem": "q?", "ground_truth_answer": "3"})]


def labelled(texts):
    verdicts = ["correct" if label else "incorrect" for label in labels_of(texts)]
    row = {"question": "q?", "steps": texts, "is_correct": False, "key": "an id"}
    return [{**row, "verdicts": verdicts, "step_rewards": se_rewards(verdicts)}]


def gsm8k(texts):
    return [{"question": "q?", "answer": "\n".join(texts).replace("w", "r")}]  # all is right


def read_labelled(path):
    (Path(path).parent / "dataset.json").write_text('{"reward": "SE"}')
    return Labelled(str(Path(path).parent))


class Layout(NamedTuple):
    """A source, rows of one solution for it, and where a label is in a row, if anywhere."""

    source: Callable[[str], Any]
    rows: Callable[[list[str]], list[dict]]
    labels: tuple[Any, ...]


LAYOUTS = {
    "stepwise": Layout(Stepwise, stepwise, ("labels", 0)),
    "attempts": Layout(lambda p: Stepwise(p, completions="attempts"), attempts, ("labels", 0)),
    "step rows": Layout(Stepwise, prefixes, ("label",)),
    "whole rows": Layout(Stepwise, whole_rows, ("labels", 0)),
    "processbench": Layout(ProcessBench, processbench, ("label",)),
    "math_shepherd": Layout(MathShepherd, math_shepherd, ("label",)),
    "openrlhf": Layout(OpenRlhf, openrlhf, ("value", 0)),
    "rlhflow": Layout(RlhFlow, rlhflow, ("conversations", 1, "content")),
    "prm800k": Layout(Prm800k, prm800k, ("label", "steps", 0, "completions", 0, "rating")),
    "gsm8k": Layout(Gsm8k, gsm8k, ()),
    "labelled": Layout(read_labelled, labelled, ("step_rewards", 0)),
}
OTHER_TEXTS = {"attempts", "gsm8k"}  # whose steps are not the texts themselves
FILES = {name for name in LAYOUTS if name != "labelled"}  # not a folder of a fixed form


def as_line(row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def lines_of(layout, *solutions) -> list[bytes]:
    return [as_line(row) for texts in solutions for row in layout.rows(texts)]


def write(folder: Path, *lines: bytes) -> str:
    path = folder / "solutions.jsonl"
    path.write_bytes(b"".join(lines))
    return str(path)


@contextmanager
def time_limit():
    def stop(*_):
        raise AssertionError(f"reading took more than {LIMIT} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)


def read(source) -> tuple[list[Solution], list[Dropped]]:
    """Read everything; check each message, and each label against what its step says."""
    with time_limit():
        found = list(source.read())
    solutions = [item for item in found if isinstance(item, Solution)]
    dropped = [item for item in found if isinstance(item, Dropped)]
    for item in dropped:
        assert item.message.startswith(item.place)
        assert len(item.message.splitlines()) == 1
        assert item.message.isprintable() or "\x7f" in item.message
        assert len(item.message) < 1000
    for solution in solutions:
        assert solution.steps
        "".join((solution.problem, solution.id, solution.source, str(solution.answer))).encode()
        for step in solution.steps:
            step.text.encode()  # no lone surrogates, which nothing after this could write
            label = step.label if step.reward is None else float(step.reward > 0)
            said = RIGHT.get(step.text[:1])
            assert label is None or said is None or label == float(said), (step, solution)
    return solutions, dropped


def kept(layout, folder, *solutions):
    """What comes of good rows with nothing dropped."""
    found, dropped = read(layout.source(write(folder, *lines_of(layout, *solutions))))
    assert not dropped
    return found


every_layout = pytest.mark.parametrize("name", LAYOUTS)


BAD_LINES = {
    "truncated JSON": lambda good: good[:-20],
    "invalid UTF-8": lambda good: good[:8] + b"\xff\xfe" + good[8:],
    "a row that is a list": lambda good: b"[1, 2]\n",
    "a row that is a number": lambda good: b"NaN\n",
    "NUL bytes": lambda good: b"\x00" * 100 + b"\n",
    "nesting without end": lambda good: b"[" * 100_000 + b"\n",
    "an endless number": lambda good: b'{"a": ' + b"9" * 10_000 + b"}\n",
    "two rows in one line": lambda good: good.strip() + good,
}


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_line_that_is_no_object_is_dropped_and_named(bad, tmp_path):
    layout = LAYOUTS["stepwise"]  # lines are read before any layout
    good = lines_of(layout, STEPS)
    path = write(tmp_path, *good, BAD_LINES[bad](good[-1]).rstrip(b"\n") + b"\n", *good)
    solutions, dropped = read(layout.source(path))
    assert [d.reason for d in dropped] == ["not a JSON object"]
    assert dropped[0].place == f"{path}:{len(good) + 1}"
    assert len(solutions) == 2 * len(kept(layout, tmp_path, STEPS))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("name", sorted(FILES))
def test_other_files_are_read_like_json_lines(name, suffix, tmp_path):
    layout = LAYOUTS[name]
    path = str(tmp_path / f"solutions.{suffix}")
    rows = layout.rows(STEPS) + layout.rows(["r0", "w1"])
    if suffix == "parquet":
        pytest.importorskip("datasets").Dataset.from_list(rows).to_parquet(path)
    else:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame([
            {c: json.dumps(v) if isinstance(v, (list, dict)) else v for c, v in row.items()}
            for row in rows
        ]).to_csv(path, index=False)  # fmt: skip
    found, dropped = read(layout.source(path))
    assert not dropped
    assert found == kept(layout, tmp_path, STEPS, ["r0", "w1"])


@pytest.mark.parametrize("name", sorted(FILES - OTHER_TEXTS))
def test_the_layout_is_told_from_the_columns(name, tmp_path):
    path = write(tmp_path, *lines_of(LAYOUTS[name], STEPS))
    assert open_source(path) == LAYOUTS[name].source(path)


@every_layout
def test_separators_inside_a_text_divide_nothing(name, tmp_path):
    texts = ["r0 \u2028 a", "r1 \u2029\x85\x0b\x1c b", "w2 \x00 c"]
    (first, *_) = kept(LAYOUTS[name], tmp_path, texts)
    assert first.problem == "q?"
    if name not in OTHER_TEXTS:
        assert [step.text for step in first.steps] == texts


@every_layout
def test_a_step_of_a_megabyte_is_a_step(name, tmp_path):
    texts = ["r" + "x = 1 << 2, step 3? " * 50_000, "r1", "w2"]
    (first, *_) = kept(LAYOUTS[name], tmp_path, texts)  # within the time limit
    assert max(len(step.text) for step in first.steps) >= (1 if name == "attempts" else 999_000)


@every_layout
def test_empty_steps_are_no_steps_or_no_row(name, tmp_path):
    layout = LAYOUTS[name]
    texts = ["", "r1", " \t\n", "r3", "\u2028", "w5", ""]
    solutions, dropped = read(layout.source(write(tmp_path, *lines_of(layout, texts))))
    whole = [[t for t in (s.text for s in x.steps) if t in texts] for x in solutions]
    assert dropped or name in OTHER_TEXTS or ["r1", "r3", "w5"] in whole
    blank, _ = read(layout.source(write(tmp_path, *lines_of(layout, STEPS, [" ", "\n"]))))
    assert len(blank) >= 1


@pytest.mark.parametrize("name", [name for name in LAYOUTS if LAYOUTS[name].labels])
@pytest.mark.parametrize("label", [float("nan"), float("inf"), -5, 2.5, "good", [], {}, "\n"])
def test_a_label_that_is_none_is_dropped(name, label, tmp_path):
    layout = LAYOUTS[name]
    rows = layout.rows(STEPS)
    *parents, last = layout.labels
    node = rows[-1]
    for key in parents:
        node = node[key]
    node[last] = label
    path = write(tmp_path, *lines_of(layout, STEPS), as_line(rows[-1]))
    solutions, dropped = read(layout.source(path))
    assert len(dropped) == 1
    assert solutions


@every_layout
def test_duplicated_ids_are_told_apart(name, tmp_path):
    path = write(tmp_path, *lines_of(LAYOUTS[name], STEPS, STEPS, STEPS))
    found = read_mixture([SourceSpec(LAYOUTS[name].source(path))]).solutions
    assert len({solution.id for solution in found}) == len(found) > 2


@every_layout
def test_a_missing_column_is_named(name, tmp_path):
    layout = LAYOUTS[name]
    missing = next(iter(layout.labels), "answer")
    rows = [{**row, "extra": 1} for row in layout.rows(STEPS)]
    for row in rows:
        del row[missing]
    if name == "labelled":
        rows = [{"question": "q?", "steps": STEPS}]
    path = write(tmp_path, *[as_line(row) for row in rows])
    with pytest.raises(ValueError, match=r"the rows have the columns .*, expected ") as error:
        read(layout.source(path))
    assert missing in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@every_layout
def test_rows_of_another_layout_are_dropped_and_counted(name, tmp_path):
    layout = LAYOUTS[name]
    other = LAYOUTS["stepwise" if name in ("rlhflow", "gsm8k") else "rlhflow"]
    path = write(tmp_path, *lines_of(layout, STEPS), *lines_of(other, STEPS))
    solutions, dropped = read(layout.source(path))
    assert [d.reason for d in dropped] == ["missing column"]
    assert len(solutions) >= 1


# No valid label, and no text that says what its label is.
JUNK = st.sampled_from(
    [None, 10**6, -3, 2.5, float("nan"), 1e400, "", "x", [], {}, [[]], {"a": [1]}, "\ud800"]
)
CHARACTERS = st.sampled_from([*' \n\r\u2028\x00.ки+-5?:"\\<>|#', "\ud800", "\U0010ffff"])


def nodes(value, path=()):
    """Paths to everything inside a JSON value."""
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in children:
        yield (*path, key)
        yield from nodes(child, (*path, key))


@st.composite
def damaged_rows(draw):
    """The name of a layout, and lines of which one row has one thing wrong."""
    name = draw(st.sampled_from(sorted(LAYOUTS)))
    rows = [row for texts in (STEPS, ["r0"], STEPS) for row in LAYOUTS[name].rows(texts)]
    rows = copy.deepcopy(rows)
    row = draw(st.sampled_from(rows))
    *parents, last = draw(st.sampled_from(list(nodes(row))))
    node = row
    for key in parents:
        node = node[key]
    how = draw(st.sampled_from(["junk", "delete", "character"]))
    if how == "character" and isinstance(node[last], str):
        at = draw(st.integers(0, len(node[last])))
        cut = draw(st.integers(0, 1))
        node[last] = node[last][:at] + draw(CHARACTERS) * (1 - cut) + node[last][at + cut :]
    # A step gone from a row that gives the place of its error: no reader could know.
    elif how == "delete" and (name, *parents) != ("processbench", "steps"):
        del node[last]
    else:
        node[last] = draw(JUNK)
    return name, [as_line(row) for row in rows]


@st.composite
def damaged_bytes(draw):
    """The name of a layout, and lines of which some bytes are others."""
    name = draw(st.sampled_from(sorted(LAYOUTS)))
    content = b"".join(lines_of(LAYOUTS[name], STEPS, STEPS))
    at, size = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
    return name, [content[:at] + draw(st.binary(max_size=40)) + content[at + size :]]


@contextmanager
def errors_of_one_line():
    try:
        yield
    except (ValueError, OSError) as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 2000


@given(damaged_rows())
@settings(max_examples=200)
def test_no_damage_to_a_row_moves_a_label(tmp_path_factory, damaged):
    name, lines = damaged
    path = write(tmp_path_factory.getbasetemp(), *lines)
    with errors_of_one_line():
        read(LAYOUTS[name].source(path))


@given(damaged_bytes(), st.sampled_from([".jsonl", ".json", ".jsonl.gz", ".csv", ".parquet"]))
@settings(max_examples=60)
def test_no_bytes_crash_a_source(tmp_path_factory, damaged, suffix):
    name, lines = damaged
    path = Path(write(tmp_path_factory.getbasetemp(), *lines))
    if name in FILES:
        path = path.rename(path.with_suffix(suffix))
    with errors_of_one_line(), time_limit():
        for item in LAYOUTS[name].source(str(path)).read():
            assert isinstance(item, Solution) or len(item.message.splitlines()) == 1
