"""Verb `format`: what it writes, says and refuses, and the commands of its documentation."""

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import step_rows, write_lines

from prm_lightning.sources.formatting import (
    StepRows,
    format_stepwise,
    main,
    read_specs,
    write_solutions,
)
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.sources.synthetic import Synthetic
from prm_lightning.types import Solution, Step


@pytest.fixture
def attempts(tmp_path):
    """Twelve additions, three attempts each, of which the last is wrong in its first step."""
    rows = [
        {
            "prompt": f"<|user|>\nWhat is {p} + {p + 1}?<|end|>\n<|assistant|>\n",
            "completions": [f"{p} + {p + 1} = {2 * p + 1 + wrong}.", f"#### {2 * p + 1 + wrong}"],
            "labels": [not wrong, not wrong],
        }
        for p in range(12)
        for wrong in (False, False, True)
    ]
    return write_lines(tmp_path / "rows.jsonl", *rows)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def run(*args):
    main([str(arg) for arg in args])


def test_the_layout_steps_is_the_documented_one(attempts, tmp_path):
    run("--source", attempts, "--output_dir", tmp_path / "out", "--no_balance")
    train, val = read(tmp_path / "out/prm_train.jsonl"), read(tmp_path / "out/prm_val.jsonl")
    assert len(train) + len(val) == 12 * 3 * 2
    assert not {row["problem"] for row in train} & {row["problem"] for row in val}
    assert train[0] == {
        "problem": "What is 0 + 1?",
        "step": "0 + 1 = 1.",
        "previous_steps": [],
        "reasoning_path": ["0 + 1 = 1."],
        "label": 1,
        "step_index": 0,
        "total_steps": 2,
    }


def test_training_is_balanced_and_validation_is_not(attempts, tmp_path):
    run("--dataset", attempts, "--out", tmp_path / "out", "--val-ratio", 0.4)
    labels = [[row["label"] for row in read(tmp_path / "out" / f"prm_{side}.jsonl")]
              for side in ("train", "val")]  # fmt: skip
    assert labels[0].count(0) == labels[0].count(1) > 0
    assert labels[1].count(1) == 2 * labels[1].count(0) > 0


def test_the_layout_solutions_is_read_back_as_it_was(tmp_path):
    solutions = list(Synthetic(problems=30, attempts=3, after_error="unlabelled").read())
    config = tmp_path / "sources.yaml"
    config.write_text(
        "sources: [{source: {class_path: prm_lightning.sources.Synthetic, "
        "init_args: {problems: 30, attempts: 3}}}]"
    )
    out = tmp_path / "out"
    run("--source", config, "--output", out, "--layout", "solutions", "--balance=weights")
    back = [s for name in ("train", "val") for s in Stepwise(str(out / f"prm_{name}.jsonl")).read()]
    back = [replace(s, steps=tuple(replace(step, weight=1.0) for step in s.steps)) for s in back]
    assert sorted(back, key=lambda s: s.id) == sorted(solutions, key=lambda s: s.id)
    steps = [t for s in Stepwise(str(out / "prm_train.jsonl")).read() for t in s.steps]
    weights = [{t.weight for t in steps if t.label == label} for label in (0, 1)]
    assert weights[1] == {1.0}
    assert len(weights[0]) == 1 and min(weights[0]) > 1


TEXTS = st.text(st.sampled_from('ab"\\\n\u2028é{}<'), min_size=1, max_size=6)
LABELS, WEIGHTS = st.sampled_from([None, 0.0, 0.4, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])
STEPS = st.lists(st.builds(Step, TEXTS, LABELS, WEIGHTS), min_size=1, max_size=5)
SOLUTIONS = st.lists(st.builds(Solution, TEXTS, STEPS.map(tuple), st.just("s")), max_size=4)


def naive_rows(solution):
    """The step-level loop as the guide for this data describes it."""
    steps = [(step.text, int((step.label or 0) >= 0.5)) for step in solution.steps]
    for row, step in zip(step_rows(solution.problem, steps), solution.steps, strict=True):
        if step.label is not None and step.weight > 0:
            yield row


@settings(max_examples=40)
@given(read_solutions=SOLUTIONS)
def test_rows_are_those_of_a_plain_loop(read_solutions, tmp_path_factory):
    naive = [row for solution in read_solutions for row in naive_rows(solution)]
    rows = StepRows(read_solutions)
    assert list(rows) == naive == [rows[i] for i in range(len(rows))] == rows[:]
    assert [rows[-i] for i in range(1, len(rows) + 1)] == naive[::-1]
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_solutions(path, read_solutions, "steps")
    assert read(path) == naive
    lines = path.read_bytes().split(b"\n")
    assert lines == [json.dumps(row, ensure_ascii=False).encode() for row in naive] + [b""]


def test_rows_from_python_are_what_the_verb_writes(attempts, tmp_path):
    train, val = format_stepwise(attempts, max_examples=30, balance=True, seed=3)
    run("--source", attempts, "--output", tmp_path / "out", "--max_examples", 30, "--seed", 3)
    assert list(train) == read(tmp_path / "out/prm_train.jsonl")
    assert list(val) == read(tmp_path / "out/prm_val.jsonl")
    unbalanced = format_stepwise(attempts, balance=False)[0]
    assert len(unbalanced) > len(train)
    assert list(format_stepwise(attempts, balance_dataset=False)[0]) == list(unbalanced)


def test_examples_are_rows_and_problems_are_problems(attempts):
    train, val = format_stepwise(attempts, max_examples=10, balance=False)
    assert len(train.solutions) + len(val.solutions) == 10
    train, val = format_stepwise(attempts, max_problems=4, balance=False)
    assert len(train.solutions) + len(val.solutions) == 12
    assert {s.problem for s in (*train.solutions, *val.solutions)} == {
        f"What is {p} + {p + 1}?" for p in range(4)
    }


def test_a_preview_prints_and_writes_nothing(attempts, tmp_path, capsys):
    with Path(attempts).open("a") as file:
        file.write('{"prompt": "p", "completions": ["a"], "labels": []}\n')
    before = sorted(tmp_path.rglob("*"))
    run("--source", attempts, "--preview", 10, "--output", tmp_path / "out", "--no-balance")
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    for words in (
        *["nothing was written", "correct, step", "wrong, step", "37 rows read, 36 kept"],
        *["dropped 1: steps and labels differ in number", "rows.jsonl:37"],
    ):
        assert words in said
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    table = {line[0]: line[1:] for line in lines if len(line) > 4}
    assert int(table["train"][0]) + int(table["validation"][0]) == 10
    assert int(table["train"][1]) + int(table["validation"][1]) == 30


def test_terminal_escapes_of_a_data_set_are_shown(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    row = {"prompt": "p \x1b]0;t\x07", "completions": ["a\x1b[2J", "b\x1b[2J"], "labels": [1, 0]}
    file.write_text(json.dumps(row))
    run("--source", file, "--preview", 1, "--val_ratio", 0)
    said = capsys.readouterr().out
    assert said.count(r"b\x1b[2J") == 1
    assert "\x1b" not in said


def test_only_a_folder_of_format_is_replaced_and_only_if_asked(attempts, tmp_path):
    out = tmp_path / "out"
    run("--source", attempts, "--output", out)
    before = (out / "prm_train.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match=r"out exists.*--overwrite"):
        run("--source", attempts, "--output", out, "--seed", 5)
    run("--source", attempts, "--output", out, "--seed", 5, "--overwrite")
    assert (out / "prm_train.jsonl").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl"]
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"out is not replaced: it holds 'thesis.txt'"):
        run("--source", attempts, "--output", out, "--overwrite")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--balance", "weights"], "the layout steps has no weights"),
        (["--max_examples", "0"], "--max_examples is 0"),
        (["--preview", "0"], "--preview is 0"),
        (["--val_ratio", "1"], "val_ratio=1.0 is outside"),
        (["--layout", "rows"], "layout"),
        (["--shuffle"], "shuffle"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(args, words, attempts, tmp_path):
    with pytest.raises(ValueError, match=words):
        run("--source", attempts, "--output", tmp_path / "out", *args)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    "content", ["", "a: 1", "sources: []", "- source: {class_path: prm_lightning.sources.Typo}",
                "- sauce: 1", "[", "data: {sources: 3}"],
)  # fmt: skip
def test_a_yaml_without_sources_is_refused(content, tmp_path):
    file = tmp_path / "odd.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"odd\.yaml is no list of sources \(.+\)"):
        read_specs(str(file))


def test_the_short_name_and_configurations_mean_their_sources():
    (spec,) = read_specs("gsm8k-gen-stepwise")
    assert spec.source.path == "ebony59/gsm8k-gen-stepwise"
    configs = Path(__file__).parents[1] / "configs"
    (quickstart,) = read_specs(str(configs / "quickstart.yaml"))
    assert isinstance(quickstart.source, Synthetic)


@pytest.mark.slow
def test_beginnings_are_never_all_in_memory(tmp_path):
    """300 solutions of 200 steps: 60,000 rows that would hold 6 million texts."""
    steps = tuple(Step(f"{k} and some more words to fill the line", 1.0) for k in range(200))
    many = [Solution(f"p{i}", steps, "s") for i in range(300)]
    tracemalloc.start()
    try:
        write_solutions(tmp_path / "rows.jsonl", many[:20], "steps")
        assert len(StepRows(many)) == 60_000
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    assert (tmp_path / "rows.jsonl").stat().st_size > 20e6


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom prm_lightning.sources.formatting import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--no_balance" in done.stdout
