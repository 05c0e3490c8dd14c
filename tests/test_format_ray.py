"""`format --engine ray`: the rows of the local engine, whatever happens to the workers."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_score_ray import workers_of

from prm_lightning.sources import format_ray
from prm_lightning.sources.formatting import main
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.types import Dropped, Solution

WRONG, RIGHT = "2 + 2 = 5.", "2 + 2 = 4."


def row(problem, labels, answer=None, end="#### 4"):
    """A row of TRL's layout; the last step ends a right solution."""
    steps = [(RIGHT if label else WRONG) for label in labels[:-1]] + [end]
    more = {} if answer is None else {"answer": answer}
    return {"prompt": f"What is {problem}?", "completions": steps, "labels": labels, **more}


def own(problem, id, weights, source="mine"):
    """A row of the layout `solutions`, with an id, a source and weights of its own."""
    labels = [k % 2 == 0 for k in range(len(weights))]
    return {
        "problem": f"What is {problem}?", "steps": ["s"] * len(weights), "labels": labels,
        "weights": weights, "id": id, "source": source,
    }  # fmt: skip


PROBLEMS = st.integers(0, 6).map(lambda n: f"the sum of the numbers from one up to {n}")
TRL_ROWS = st.builds(
    row,
    PROBLEMS,
    st.lists(st.sampled_from([True, False, None, 0.4]), min_size=1, max_size=4),
    st.sampled_from([None, None, "7"]),
    st.sampled_from(["#### 4", "#### 5", "Four."]),
)
OWN_ROWS = st.builds(
    own,
    PROBLEMS,
    st.sampled_from(["x", "x#2", "y", "in:1"]),
    st.lists(st.sampled_from([0.0, 0.1, 0.7, 1.0]), min_size=1, max_size=3),
    st.sampled_from(["mine", "yours"]),
)
BROKEN = st.sampled_from(["no json", "", '{"prompt": 3, "completions": [], "labels": []}', "[]"])
LINES = st.lists(st.one_of(TRL_ROWS.map(json.dumps), OWN_ROWS.map(json.dumps), BROKEN), max_size=14)


def in_this_process(verb, worker, arguments, tasks, workers=None, *, gpus=False):
    """In place of Ray: one worker, last task first, everything through JSON."""
    made = worker(*arguments, Path.cwd())
    for task in reversed(tasks):
        yield json.loads(json.dumps(made.work(*json.loads(json.dumps(task)))))


def run(source, output, *args):
    main(["--source", str(source), "--output", str(output), *map(str, args)])


def parts(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def assert_same(source, tmp_path, *args):
    """Both engines write the same bytes, which is True, or both refuse."""
    local, ray = tmp_path / "local", tmp_path / "ray"
    errors = []
    for output, engine in ((local, "local"), (ray, "ray")):
        try:
            run(source, output, "--engine", engine, *args)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        assert len(errors) == 2, errors
        return False
    for side in ("prm_train", "prm_val"):
        assert parts(ray / side) == (local / f"{side}.jsonl").read_bytes()
    assert {path.name for path in ray.iterdir()} == {"prm_train", "prm_val"}
    assert not (tmp_path / ".ray.partial").exists()
    return True


OPTIONS = st.lists(
    st.sampled_from(["--max_examples=5", "--max_problems=2", "--no_balance", "--val_ratio=0",
                     "--val_ratio=0.6", "--seed=3"]),
    unique_by=lambda option: option.split("=")[0],
    max_size=3,
)  # fmt: skip


@settings(max_examples=60)
@given(lines=LINES, options=OPTIONS, layout=st.sampled_from(["steps", "solutions", "weights"]))
def test_parts_hold_the_bytes_of_the_local_engine(lines, options, layout, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("format")
    (tmp_path / "in.jsonl").write_text("".join(line + "\n" for line in lines))
    if layout == "weights":
        options = [*(o for o in options if o != "--no_balance"), "--balance=weights"]
        layout = "solutions"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_ray, "run_on_ray", in_this_process)
        patch.setattr(format_ray, "PIECE_ROWS", 3)
        assert_same(tmp_path / "in.jsonl", tmp_path, *options, "--layout", layout)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(format_ray, "run_on_ray", in_this_process)
    monkeypatch.setattr(format_ray, "PIECE_ROWS", 3)


@pytest.fixture
def mixture(tmp_path):
    """Sources of all kinds: files of four layouts, one compressed, one a list; and no file."""
    import gzip

    import pyarrow as pa
    import pyarrow.parquet

    folder = tmp_path / "rows"
    folder.mkdir()
    rows = [row(f"{n // 2} and 2", [True, n % 3 > 0], end=f"#### {n // 2 + 2}") for n in range(17)]
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n\n" for r in rows[:7]))
    (folder / "b.json").write_text(json.dumps(rows[7:11]))
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(r) + "\n" for r in rows[11:]))
    table = pa.Table.from_pylist([{
        "input": f"How much is {n} less one? Step 1: {n} - 1 = 3. ки Step 2: It is 3. ки",
        "label": f"How much is {n} less one? Step 1: {n} - 1 = 3. {'+-'[n % 2]} Step 2: It is 3. -",
        "task": "GSM8K",
    } for n in range(10)])  # fmt: skip
    pa.parquet.write_table(table, tmp_path / "shepherd.parquet", row_group_size=4)
    letters = ["a", "b", "c", "d", "e"]
    prefixes = [
        {"problem": "How many?", "previous_steps": letters[:k], "step": step, "label": k < 3}
        for k, step in enumerate(letters)
    ]
    (tmp_path / "prefixes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in prefixes))
    name = "prm_lightning.sources."

    def source(kind, **args):
        return {"class_path": name + kind, "init_args": args}

    specs = [
        {"source": source("Stepwise", path=str(folder)), "name": "trl", "limit": 15},
        {"source": source("MathShepherd", path=str(tmp_path / "shepherd.parquet"))},
        {"source": source("Synthetic", problems=9, attempts=2)},
        {"source": source("Stepwise", path=str(tmp_path / "prefixes.jsonl"))},
        {"source": source("Stepwise", path=str(folder / "a.jsonl")), "name": "trl"},
    ]
    config = tmp_path / "mixture.yaml"
    config.write_text(yaml.safe_dump({"sources": specs}))
    return config


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "options",
    [["--layout", "solutions"], ["--layout", "steps"], ["--max_examples", "22"],
     ["--layout", "solutions", "--balance", "weights", "--max_problems", "11"]],
)  # fmt: skip
def test_a_mixture_of_sources_is_written_as_by_the_local_engine(mixture, tmp_path, options):
    assert assert_same(mixture, tmp_path, *options)


class Shouting(Stepwise):
    """A source of one's own, made from one of ours."""

    def read(self) -> Iterator[Solution | Dropped]:
        for found in super().read():
            yield replace(found, problem=found.problem.upper())


@pytest.mark.usefixtures("small_pieces")
def test_a_source_that_changes_what_ours_reads_is_read_as_a_whole(tmp_path):
    rows = [row(f"{n} and two", [True, n % 2 == 0]) for n in range(9)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    source = {"class_path": f"{__name__}.Shouting", "init_args": {"path": f"{tmp_path}/in.jsonl"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump([{"source": source}]))
    assert assert_same(tmp_path / "own.yaml", tmp_path, "--layout", "solutions")
    assert b"WHAT IS 3 AND TWO?" in parts(tmp_path / "ray" / "prm_train")


@pytest.mark.usefixtures("small_pieces")
def test_both_engines_tell_the_same(mixture, tmp_path, capsys):
    told = []
    for engine in ("local", "ray"):
        run(mixture, tmp_path / engine, "--engine", engine)
        told.append(capsys.readouterr().out.replace(f"{tmp_path}/{engine}", "OUT").splitlines())
    assert told[0][:-1] == told[1][:-1]
    assert told[1][-1] == "wrote OUT/prm_train/ and prm_val/"


@pytest.mark.usefixtures("small_pieces")
def test_a_run_that_was_cut_off_goes_on_with_what_is_missing(mixture, tmp_path, monkeypatch):
    run(mixture, tmp_path / "whole", "--engine", "ray")
    done = []

    def stops(verb, worker, arguments, tasks, workers=None):
        for task in in_this_process(verb, worker, arguments, tasks):
            done.append(task)
            yield task
            if len(done) in (4, 30):
                raise KeyboardInterrupt

    monkeypatch.setattr(format_ray, "run_on_ray", stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(mixture, tmp_path / "cut", "--engine", "ray")
        assert not (tmp_path / "cut").exists()
    with pytest.raises(ValueError, match=r"another job .*seed"):
        run(mixture, tmp_path / "cut", "--engine", "ray", "--seed", 1)
    run(mixture, tmp_path / "cut", "--engine", "ray")
    assert len(done) == len({(task["stage"], task["part"]) for task in done})
    for side in ("prm_train", "prm_val"):
        assert parts(tmp_path / "cut" / side) == parts(tmp_path / "whole" / side)


@pytest.mark.usefixtures("small_pieces")
def test_an_input_that_changes_meanwhile_is_an_error(mixture, tmp_path, monkeypatch):
    def shrinks(verb, worker, arguments, tasks, workers=None):
        if tasks[0][0] == "writing":
            (tmp_path / "prefixes.jsonl").write_text("")
            (tmp_path / "rows" / "a.jsonl").write_text("\n" * 2000)
        yield from in_this_process(verb, worker, arguments, tasks)

    monkeypatch.setattr(format_ray, "run_on_ray", shrinks)
    with pytest.raises(ValueError, match=r"a\.jsonl changed while it was read"):
        run(mixture, tmp_path / "out", "--engine", "ray")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--workers", "2"], "--workers 2 goes with --engine ray"),
        (["--engine", "ray", "--workers", "0"], "--workers is 0"),
        (["--engine", "ray", "--preview", "3"], "--preview goes without --engine ray"),
    ],
)
def test_options_that_do_not_go_together_are_named(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "in.jsonl", tmp_path / "out", *args)


@pytest.mark.slow
def test_ray_formats_as_one_process_does_also_if_a_worker_is_killed(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    rows = [row(f"{n // 3} and {n % 7}", [True, n % 3 > 0]) for n in range(900)]
    (tmp_path / "in").mkdir()
    for file in range(3):
        lines = "".join(json.dumps(r) + "\n" for r in rows[file::3])
        (tmp_path / "in" / f"{file}.jsonl").write_text(lines)
    run(tmp_path / "in", tmp_path / "local", "--layout", "solutions")
    monkeypatch.setattr(format_ray, "PIECE_ROWS", 20)
    killed = []
    append = format_ray.ResumableRows.append

    def kill_one(record, *found):
        append(record, *found)
        if found[0]["stage"] not in killed:
            killed.append(found[0]["stage"])
            os.kill(workers_of("PieceFormatter")[0], signal.SIGKILL)

    monkeypatch.setattr(format_ray.ResumableRows, "append", kill_one)
    try:
        run(tmp_path / "in", tmp_path / "ray", "--layout", "solutions", "--engine", "ray",
            "--workers", "2")  # fmt: skip
        with pytest.raises(ValueError, match=r"^format: 'nothere': no such file or folder"):
            run("nothere", tmp_path / "none", "--engine", "ray", "--workers", "2")
    finally:
        ray.shutdown()
    assert killed == ["reading", "writing"]
    for side in ("prm_train", "prm_val"):
        assert parts(tmp_path / "ray" / side) == (tmp_path / f"local/{side}.jsonl").read_bytes()
