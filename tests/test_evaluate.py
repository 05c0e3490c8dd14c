"""The verb `evaluate`: one table for several models, baselines next to them, failures shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from raw_rows import write_lines

from prm_lightning.__main__ import call
from prm_lightning.evaluation.baselines import untrained_twin
from prm_lightning.evaluation.best_of_n import pool_attempts
from prm_lightning.evaluation.data import leave_out, read_data, read_pools
from prm_lightning.evaluation.results import Table, render
from prm_lightning.evaluation.scored import Scored, fit_on
from prm_lightning.files import job_lock
from prm_lightning.modeling.aggregate import choose_aggregation
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.prm import PRM
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution, Step

PROBLEMS = [f"Tom has {i} red and {i * 7} blue marbles. How many has he?" for i in range(2, 12)]


def processbench_rows(problems=PROBLEMS):
    for i, problem in enumerate(problems):
        for label in (-1, i % 2):
            steps = [f"{i} + {i * 7} is what we need.", f"That is {i * 8 + (label == 1)}."]
            yield {
                "id": f"{'gsm8k' if i % 2 else 'math'}-{2 * i + (label == -1)}",
                "generator": "g", "problem": problem, "steps": steps,
                "final_answer_correct": label == -1, "label": label,
            }  # fmt: skip


def pool_rows(problems=PROBLEMS):
    for i, problem in enumerate(problems):
        samples = [
            {"generator": "g", "steps": ["Add.", f"It is {answer}."] if answer else [],
             "final_answer": answer, "is_correct": answer == str(i * 8)}
            for answer in (str(i * 8), str(i * 8 + 1), None, str(i * 8))
        ]  # fmt: skip
        yield {"id": f"q{i}", "question": problem, "answer": str(i * 8), "samples": samples}


@pytest.fixture(scope="session")
def tiny_prms(tiny_model_folder, tmp_path_factory) -> list[str]:
    """Two models of one backbone, of which the first has a threshold."""
    import torch

    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        prm = PRM.create(Backbone(str(tiny_model_folder()), lora=None), template="plain")
        prm.head.weight.data *= 20  # spread the scores
        if not seed:
            prm.record(threshold=0.4, threshold_fitted_on="val.jsonl")
        folder = tmp_path_factory.mktemp("prm") / f"model{seed}"
        prm.save_pretrained(folder)
        folders.append(str(folder))
    return folders


@pytest.fixture
def pb(tmp_path) -> str:
    return write_lines(tmp_path / "pb.jsonl", *processbench_rows())


@pytest.fixture
def pool(tmp_path) -> str:
    return write_lines(tmp_path / "pool.jsonl", *pool_rows())


def evaluate(output: Path, benchmark: str, *options: object) -> tuple[dict, list[dict]]:
    line = ["--benchmark", benchmark, *map(str, options), "--output", str(output)]
    call("evaluate", [*line, "--resamples", "30"])
    scores = (output / "scores.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return json.loads((output / "results.json").read_text()), [json.loads(s) for s in scores]


def score_with(prm: PRM, solutions) -> list[Scored]:
    return [Scored(s, prm.score(s.problem, [[t.text for t in s.steps]])[0]) for s in solutions]


def test_problems_of_the_test_data_are_left_out_of_validation_data():
    def solution(problem):
        return Solution(problem, (Step("x"),), "s")

    tested = [solution("Ann has 3 apples and buys 12 more. How many has she?")]
    copy = solution("  ann has 3 apples and buys 12 more; how many has she")
    other = solution("A train runs 60 miles in 2 hours. How fast is it?")
    assert leave_out([copy, other], tested) == [other]


def test_several_models_make_one_table_with_their_baselines(tmp_path, tiny_prms, pb, capsys):
    validation = processbench_rows([PROBLEMS[0], "A train has 9 cars?"])
    fit = write_lines(tmp_path / "fit.jsonl", *validation)
    out = tmp_path / "out"
    results, scores = evaluate(
        out, "processbench", "--data", pb, "--model", *tiny_prms, "--fit_on", fit
    )
    kinds = {row["model"]: row["kind"] for row in results["rows"]}
    assert kinds == {
        tiny_prms[0]: "model",
        f"{tiny_prms[0]}, untrained head": "untrained",  # one for both: they share the backbone
        f"{tiny_prms[0]}, surprisal": "untrained",
        tiny_prms[1]: "model",
        "majority class": "baseline",
        "always step 1": "baseline",
    }
    assert {row["part"] for row in results["rows"]} == {"gsm8k", "math", "mean", "weighted mean"}
    fitted = [r for r in results["rows"] if r["kind"] == "model" and r["threshold"] != 0.5]
    assert len(fitted) == 8
    told = "2 left out whose problems are in the test data"
    assert all(told in row["threshold_from"] for row in fitted)
    assert results["fit_on"]["left_out"] == 2
    prm, kept = PRM.from_pretrained(tiny_prms[0]), read_data([fit])[0][2:]
    expected = fit_on(score_with(prm, kept), "").threshold
    assert fitted[0]["threshold"] == pytest.approx(expected, abs=1e-6)
    row = next(r for r in results["rows"] if r["part"] == "gsm8k" and r["kind"] == "model")
    assert row["metrics"]["f1"]["low"] <= row["metrics"]["f1"]["value"]
    assert len(scores) == 4 * 20
    assert scores[0] | {"scores": None} == {
        "model": tiny_prms[0], "id": "math-1", "source": "math", "problem": PROBLEMS[0],
        "steps": ["0 + 0 is what we need.", "That is 0."], "labels": [1.0, 1.0], "scores": None,
        "first_error": -1,
    }  # fmt: skip
    title, _, header, _, row = (out / "table.md").read_text().splitlines()[:5]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == title.strip("*")  # without the marks of Markdown
    for line, plain in zip((header, row), printed[2:4], strict=True):
        assert plain.split() == line.replace("|", " ").split()
    assert not list(tmp_path.glob(".out*"))  # no journal is left


def test_a_model_is_judged_as_it_was_saved_and_by_what_it_was_trained_on(tmp_path, tiny_prms, pb):
    model = tmp_path / "model"
    shutil.copytree(tiny_prms[0], model)
    known = [PROBLEMS[0].upper(), PROBLEMS[3], "Another problem."]  # case does not matter
    hashes = [sha256(normalise_problem(p).encode()).hexdigest()[:16] for p in known]
    (model / "training_problems.json").write_text(json.dumps({"problems": hashes}))
    options = ("--data", pb, "--model", model, tiny_prms[1], "--baselines", "cheap")
    results, lines = evaluate(tmp_path / "out", "steps", *options)
    thresholds = {m["name"]: (m["threshold"], m["threshold_from"]) for m in results["models"]}
    assert thresholds == {str(model): (0.4, "val.jsonl"), tiny_prms[1]: (None, None)}
    notes = [note for note in results["notes"] if "was trained on" in note]
    assert notes == [f"{model} was trained on 2 of the problems in these data."]
    row = list(processbench_rows())[4]  # what else is evaluated changes no score
    (line,) = [x for x in lines if (x["id"], x["model"]) == (row["id"], str(model))]
    alone = PRM.from_pretrained(model).score(row["problem"], [row["steps"]])[0]
    assert line["scores"] == pytest.approx(alone, abs=1e-6)


def test_an_untrained_twin_has_the_same_encoding_and_another_head(tiny_prms):
    trained = PRM.from_pretrained(tiny_prms[0])
    twins = [untrained_twin(Path(tiny_prms[0]), seed) for seed in (0, 0, 1)]
    assert twins[0].encode("1?", ["a"]) == trained.encode("1?", ["a"])
    first, same, other = (twin.score("1 + 1?", [["It is 2."]])[0] for twin in twins)
    assert first == same
    assert first != other


def test_steps_of_any_layout_and_of_a_list_of_sources(tmp_path, tiny_prms, pb):
    write_lines(tmp_path / "a.jsonl", *[
        {"prompt": p, "completions": ["Add.", "Done."], "labels": [True, i % 2 == 0]}
        for i, p in enumerate(PROBLEMS)
    ])  # fmt: skip
    sources = tmp_path / "sources.yaml"
    sources.write_text(
        "- source: {class_path: prm_lightning.sources.Stepwise, init_args: "
        f"{{path: {tmp_path / 'a.jsonl'}}}}}\n  name: mine\n  limit: 4\n"
    )
    options = ("--data", sources, pb, "--model", tiny_prms[0], "--baselines", "cheap")
    results, _ = evaluate(tmp_path / "out", "steps", *options)
    assert results["data"]["solutions"] == 24
    assert {row["part"] for row in results["rows"]} == {
        "all", "source/mine", "source/pb", "position/1", "position/2",
    }  # fmt: skip


def test_best_of_n_with_an_aggregation_from_validation(tmp_path, tiny_prms, pool):
    fit = write_lines(tmp_path / "fit.jsonl", *pool_rows(["A train has 9 cars?", PROBLEMS[3]]))
    options = ("--data", pool, "--model", tiny_prms[0], "--fit_on", fit)
    results, scores = evaluate(tmp_path / "out", "best-of-n", *options)
    assert len(scores) == 3 * 30  # a sample without steps is not scored
    assert results["data"]["counts"] == {"sample without steps": 10, "sample without an answer": 10}
    model = results["models"][0]
    pools = read_pools([fit])[0][:1]
    validation = score_with(PRM.from_pretrained(tiny_prms[0]), pools[0].solutions())
    assert model["aggregation"] == choose_aggregation(*pool_attempts(pools, validation))[0]
    assert "chosen on" in model["aggregation_from"]
    assert "1 left out" in model["aggregation_from"]
    assert model["threshold"] == 0.4  # of prm.json: what the report flags
    accuracy = {
        (r["method"], r["n"]): r["metrics"]["accuracy"]["value"]
        for r in results["rows"]
        if r["kind"] == "baseline"
    }
    assert accuracy["pass@1", 1] == pytest.approx(0.5)
    assert accuracy["oracle", 4] == 1.0
    assert accuracy["majority", 4] == 1.0  # two right votes against one wrong
    ours = [row for row in results["rows"] if row["model"] == tiny_prms[0]]
    assert {row["aggregation"] for row in ours if row["chosen"]} == {model["aggregation"]}


def test_prmbench(tmp_path, tiny_prms):
    rows = [
        {"modified_question": p, "modified_process": ["Add.", "Done."], "error_steps": [1],
         "classification": "circular", "idx": str(i)}
        for i, p in enumerate(PROBLEMS)
    ]  # fmt: skip
    data = write_lines(tmp_path / "prmbench.jsonl", *rows)
    options = ("--data", data, "--model", tiny_prms[0], "--baselines", "cheap")
    results, scores = evaluate(tmp_path / "out", "prmbench", *options)
    assert {row["part"] for row in results["rows"]} == {"all", "circular"}
    assert scores[0]["labels"] == [0.0, 1.0]  # steps after an error are judged too


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--benchmark processbench --data pb.jsonl --model nowhere", "nowhere"),
        ("--benchmark processbench --data pb.jsonl", "needs --model"),
        ("--benchmark steps --model M", "needs --data"),
        ("--benchmark steps --model M --data missing.jsonl", "missing.jsonl"),
        ("--benchmark steps --model M --data pool.jsonl", "the columns are id, question, answer"),
        ("--benchmark steps --model M --data bad.yaml", "bad.yaml is no list of sources"),
        ("--benchmark best-of-n --model M --data pb.jsonl", "expected samples"),
        ("--benchmark best-of-n --model M --data empty.jsonl", "empty"),
        ("--benchmark processbench --data pb.jsonl --model M --limit 0", "--limit is 0"),
        ("--benchmark processbench --data pb.jsonl --model M --fit_on pb.jsonl", "leaves nothing"),
        ("--benchmark processbench --data pb.jsonl --model M --output .", "exists"),
        ("--benchmark nonsense --data pb.jsonl --model M", "benchmark"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, tiny_prms, pb, pool, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "empty.jsonl")
    (tmp_path / "bad.yaml").write_text("sources: [{source: 3}]\n")
    line = options.replace(" M", f" {tiny_prms[0]}").split()
    line += [] if "--output" in line else ["--output", "out"]
    with pytest.raises((ValueError, OSError), match=message) as caught:
        call("evaluate", line)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_output_folder_is_replaced_only_when_asked(tmp_path, pool):
    out = tmp_path / "out"
    line = ["--benchmark", "best-of-n", "--data", pool, "--output", str(out)]
    call("evaluate", line)
    assert (out / "scores.jsonl").read_text() == ""  # majority and oracle need no model
    with pytest.raises(FileExistsError):
        call("evaluate", line)
    call("evaluate", [*line, "--overwrite"])
    with job_lock(out, "evaluate"):
        code = (
            f"from prm_lightning.__main__ import call; call('evaluate', {[*line, '--overwrite']})"
        )
        assert "being written by process" in run_python(code).stderr
    (out / "thesis.tex").write_text("of somebody")
    with pytest.raises(FileExistsError, match=r"'thesis\.tex', which was not written by"):
        call("evaluate", [*line, "--overwrite"])
    assert (out / "thesis.tex").is_file()


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_needs_no_torch():
    done = run_python(
        "import sys\nfrom prm_lightning.__main__ import call\n"
        "for verb in ('evaluate', 'report', 'export', 'import'):\n"
        "    try:\n        call(verb, ['--help'])\n    except SystemExit:\n        pass\n"
        "    heavy = {'torch', 'matplotlib', 'transformers', 'datasets'} & set(sys.modules)\n"
        "    assert not heavy, (verb, heavy)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n  --output OUTPUT  ") == 4


def test_a_name_cannot_break_a_table():
    text = render(Table("t", ["a|b", "c"], [["x\ny", "1"]]))
    assert text.split("\n")[2:] == ["| a\\|b | c |", "| ---- | - |", "| x y  | 1 |"]


def test_steps_after_the_first_error_are_context(tmp_path):
    row = {"prompt": "1?", "completions": ["a", "b", "c"], "labels": [True, False, True]}
    ((read,), _) = read_data([write_lines(tmp_path / "a.jsonl", row)])
    assert [step.weight > 0 for step in read.steps] == [True, True, False]
