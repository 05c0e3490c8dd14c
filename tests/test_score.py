"""The verb `score`: one problem in the terminal, or a file that a kill cannot harm."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import date

import pytest
from test_prm import tiny_prm
from test_scorers import STEPS, Counting

from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.score import ScoreOptions, main, score_file, score_rows
from prm_lightning.sources import Stepwise

SHORT = {"max_position_embeddings": 128}


@pytest.fixture(scope="module")
def model(tiny_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("score") / "model"
    tiny_prm(tiny_model_folder("llama", **SHORT), template="plain").save_pretrained(folder)
    return str(folder)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


ROWS = [
    {"id": "a", "problem": "How many?", "steps": STEPS[:2], "extra": {"deep": [1, None]}},
    {"id": "b", "prompt": "<|im_start|>user\nHow many?<|im_end|>\n", "completions": STEPS[:2]},
    {"id": "c", "question": "How many?", "steps": STEPS[:1], "scores": "old"},
    {"id": "d", "problem": "How many?", "steps": STEPS * 9},
    {"id": "e", "problem": "How many?", "steps": []},
    {"id": "f", "problem": "How many?", "steps": ["x", " "]},
    {"id": "g", "problem": " ", "steps": ["x"]},
    {"id": "h", "problem": "How\u2028many?", "steps": ["\u2028x"]},
    {"id": "i", "problem": None, "prompt": "How many?", "steps": None, "completions": STEPS[:1]},
    {"id": "j", "problem": "How many?", "steps": ["x \ud83d", "y"]},
    {"id": "k", "problem": "How many?", "steps": ["x"], "note": "\ud83d"},
    {"id": "l", "prompt": "<|im_start|>user\n<|im_end|>\n", "completions": ["x"]},
    {"id": "m", "problem": "How many?", "steps": "So 2."},
]


def test_a_file_is_scored_row_by_row(model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", ROWS)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write("no json\n")
    output = tmp_path / "deep" / "out.jsonl"
    main(["--model", model, "--input", source, "--out", str(output), "--threshold", "0.51"])
    records = lines(output)
    assert [r.get("id") for r in records] == [*"abcdefghi", None, None, "l", "m", None]
    assert [r["outcome"] for r in records] == [
        *["scored"] * 3,
        "refused by the model",
        "no steps",
        "a step is blank or no text",
        "no problem",
        *["scored"] * 2,
        *["text with half a character"] * 2,
        "no problem",
        "no steps",
        "not a JSON object",
    ]
    prm = PRM.from_pretrained(model)
    for record, row in zip(records, [*ROWS, {}], strict=True):
        if record["outcome"] != "scored":
            assert record["scores"] is record["score"] is record["first_error"] is None
            assert record["message"]
            continue
        steps = row.get("steps") or row["completions"]
        problem = row.get("problem") or "How many?"
        (expected,) = prm.score(problem, [steps])
        assert record["scores"] == pytest.approx(expected, abs=1e-6)
        assert record["score"] == min(record["scores"])
        flagged = [score < 0.51 for score in record["scores"]]
        assert record["first_error"] == (flagged.index(True) if any(flagged) else -1)
        assert record | {"scores": row.get("scores", record["scores"])} == record | row
    assert "context of 128 tokens" in records[3]["message"]
    printed = capsys.readouterr().out
    assert "5 of 14 rows scored" in printed
    assert "2 no steps" in printed
    assert list(output.parent.iterdir()) == [output]


MARKED = [
    "Step 1: They are 4*6=<<4*6=24>>24 pens.",
    " 24-2=<<24-2=22>>22 pens\r\n\r\nstay.",
    "<<1+1=2>>",
]


def test_fields_that_json_has_no_name_for_are_copied(model, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    odd = {"day": date(2020, 1, 2), "raw": b"\xff", "nan": float("nan")}
    table = pyarrow.Table.from_pylist([{"problem": "2 + 3?", "steps": ["5"], **odd}])
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "in.parquet")
    output = tmp_path / "out.jsonl"
    main(["--model", model, "--input", str(tmp_path / "in.parquet"), "--output", str(output)])
    (record,) = lines(output)
    assert [record[k] for k in (*odd, "outcome")] == ["2020-01-02", "b'\\xff'", None, "scored"]


def test_texts_are_cleaned_as_in_training(model, tmp_path):
    row = {"prompt": " How many? ", "completions": MARKED, "labels": [True] * 3}
    source = write(tmp_path / "in.jsonl", [row])
    found = {}
    for name, options in {
        "as training": [],
        "kept": ["--calculator_marks", "keep"],
        "no numbers": ["--step_numbers=remove"],
    }.items():
        output = tmp_path / f"{name}.jsonl"
        main(["--model", model, "--input", source, "--output", str(output), *options])
        (found[name],) = lines(output)
    assert found["kept"]["completions"] == MARKED
    prm = PRM.from_pretrained(model)
    (read,) = Stepwise(source).read()
    texts = [step.text for step in read.steps]
    assert found["as training"]["scores"] == pytest.approx(prm.score(read.problem, texts))
    assert found["kept"]["scores"] == pytest.approx(prm.score("How many?", MARKED))
    texts[0] = texts[0].removeprefix("Step 1: ")
    assert found["no numbers"]["scores"] == pytest.approx(prm.score("How many?", texts))


@contextmanager
def another_process_writing(output, verb):
    """Another process holds the lock of an output; it is killed at the end."""
    code = (
        "import sys; from prm_lightning.files import job_lock; from pathlib import Path\n"
        "with job_lock(Path(sys.argv[1]), sys.argv[2]): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(output), verb]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    yield
    other.kill()
    other.communicate()


def test_only_one_process_writes_an_output(model, tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS[:2])
    output = tmp_path / "out.jsonl"
    arguments = ["--model", model, "--input", source, "--output", str(output)]
    held = pytest.raises(OSError, match=r"out\.jsonl is being written by process")
    with another_process_writing(output, "score"), held:
        main(arguments)
    main(arguments)  # the lock of a dead process is free
    assert len(lines(output)) == 2


def test_nothing_is_overwritten_unasked(model, tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS[:1])
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    arguments = ["--model", model, "--input", source, "--output", str(output)]
    with pytest.raises(FileExistsError, match=r"out\.jsonl exists"):
        main(arguments)
    with pytest.raises(FileExistsError, match="its first row has no outcome"):
        main([*arguments, "--overwrite"])
    with pytest.raises(IsADirectoryError):
        main([*arguments[:-1], str(tmp_path), "--overwrite"])
    assert output.read_text() == "mine"
    output.unlink()
    main(arguments)
    main([*arguments, "--aggregate", "prod", "--overwrite"])
    (record,) = lines(output)
    assert record["score"] == pytest.approx(record["scores"][0] * record["scores"][1])


def run(scorer, source, output, model="model a", **options):
    asked = ScoreOptions("", input=source, output=str(output), **options)
    job = score_file(lambda chunks: (score_rows(scorer, c, asked) for c in chunks), model, asked)
    return [counts.copy() for counts, _ in job]


def test_a_job_resumes_where_it_stopped(tmp_path):
    rows = [{"id": i, "problem": f"{i}?", "steps": ["x"] * bool(i % 7)} for i in range(400)]
    source = write(tmp_path / "in.jsonl", rows)
    run(Counting(), source, tmp_path / "whole")
    with pytest.raises(ConnectionError):
        run(Counting(fails_after=300), source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    partial = tmp_path / ".out.partial"
    with partial.open("a") as file:
        file.write('{"id": 256, "sc')  # cut in the middle of a line
    second = Counting()
    counts = run(second, source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len(second.asked) == sum(bool(i % 7) for i in range(256, 400))
    assert counts[0].total() == 256
    assert counts[-1] == {"scored": 342, "no steps": 58}
    assert not partial.exists()


def test_another_job_does_not_resume_it(tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS[:1] * 130)
    output = tmp_path / "out"
    with pytest.raises(ConnectionError):
        run(Counting(fails_after=129), source, output)
    with pytest.raises(ValueError, match=r"begun by another job \(its model differ"):
        run(Counting(), source, output, model="model b")
    write(tmp_path / "in.jsonl", ROWS[:2])
    with pytest.raises(ValueError, match="its input differ"):
        run(Counting(), source, output)
    run(Counting(), source, output, model="model b", overwrite=True)
    assert len(lines(output)) == 2


def test_a_file_without_anything_to_score_is_an_error(model, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"text": "x"}, {"text": "y"}])
    with pytest.raises(ValueError, match=r"no row of .* can be scored\. The first: .*no problem"):
        main(["--model", model, "--input", source, "--output", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --problem with --steps, or --input"),
        (["--problem", "x"], "either --problem"),
        (["--steps", "x"], "--problem goes with --steps"),
        (["--input", "x"], "--input goes with --output"),
        (["--problem", "x", "--steps", "x", "--threshold", "2"], "--threshold is 2"),
        (["--problem", "x", "--steps", "x", "--aggregate", "max"], "aggregate"),
        (["--problem", "x", "--step", "x"], "step"),
        (["--problem", "x", "--steps", "x", "--engine", "ray"], "--engine ray goes with --input"),
        (["--input", "x", "--output", "x", "--workers", "2"], "it goes with --engine ray"),
    ],
)
def test_options_that_do_not_fit_are_one_line(model, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        main(["--model", model, *arguments])
    assert "\n" not in str(caught.value)


def test_no_file_allows_code_to_run(model, tmp_path):
    config = tmp_path / "score.yaml"
    config.write_text(f"{{model: {model}, problem: x, steps: [[y]], trust_remote_code: true}}")
    for before in ([], ["--trust_remote_code=false"], ["--trust_remote_code", "false"]):
        with pytest.raises(ValueError, match=r"--trust_remote_code is taken from the command line"):
            main([*before, "--config", str(config)])
    for after in (["--trust-remote-code"], ["--trust_remote_code", "true"]):
        main(["--config", str(config), *after])


def test_one_problem_is_shown_with_all_its_solutions(model, capsys):
    hostile = "[red]-1[/red] = {x}: 'y'\n\"z\" --steps \x1b[31m"
    steps = [["null", "2"], [hostile, "- 3", "[1, 2]"]]
    main(["--model", model, "--problem", "1 + 1?", "--steps", *steps[0], "--steps", *steps[1]])
    shown = capsys.readouterr().out
    scores = PRM.from_pretrained(model).score("1 + 1?", steps)
    for row, texts in zip(scores, steps, strict=True):
        for score, text in zip(row, texts, strict=True):
            assert f"{score:5.3f}" in shown
            assert text.replace("\x1b", "\\x1b") in shown
        assert f"min {min(row):.3f}" in shown
    main(["--steps=2", "3", "--model", model, "--steps", "4", "--problem=- 1 + 1 = ?"])
    shown = capsys.readouterr().out
    assert shown.count("(P(correct) < ") == 2
    assert "- 1 + 1 = ?" in shown


def test_help_is_quick_to_load():
    code = (
        "import sys\nfrom importlib import import_module\n"
        "for module in ('scoring.score', 'searching.verb', 'labelling.label'):\n"
        "    try: import_module(f'prm_lightning.{module}').main(['--help'])\n"
        "    except SystemExit: assert not {'torch', 'anthropic', 'openai'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    of_label = ("--sft_model", "--num_rollouts", "--skip_generation", "--budget", "--dry_run")
    for option in ("--aggregate", "--token_budget", *of_label):
        assert option in result.stdout


@pytest.mark.slow
def test_ray_writes_what_one_process_writes_also_if_an_actor_is_killed(model, tmp_path):
    ray = pytest.importorskip("ray")
    import psutil

    rows = [row | {"id": i} for i, row in enumerate(ROWS[:9] * 60)]
    source = write(tmp_path / "in.jsonl", rows)
    common = ["--model", model, "--input", source, "--device", "cpu"]
    main([*common, "--output", str(tmp_path / "local")])
    expected = lines(tmp_path / "local")
    killed = []

    def kill_one():
        """As soon as the first rows are written."""
        while not killed:
            partial = tmp_path / ".ray.partial"
            if partial.exists() and partial.read_bytes().count(b"\n") > 1:
                for process in psutil.Process().children(recursive=True):
                    if "Worker.do" in " ".join(process.cmdline()) and not killed:
                        killed.append(process.pid)
                        os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    try:
        ray_options = ["--output", str(tmp_path / "ray"), "--engine", "ray", "--workers", "2"]
        main([*common, *ray_options])
        assert killed
        for found, row in zip(lines(tmp_path / "ray"), expected, strict=True):
            numbers = {name: pytest.approx(row[name], abs=1e-6) for name in ("scores", "score")}
            assert found == row | (numbers if row["scores"] else {})
        with pytest.raises(ValueError, match=r"--workers is 9999, but the cluster has room for"):
            main([*common, *ray_options[:-1], "9999", "--overwrite"])
    finally:
        killed.append(None)
        ray.shutdown()
