"""The verb `evaluate`: one table for several models, baselines beside, failures in the open."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from prm_lightning.evaluation.baselines import untrained_twin
from prm_lightning.evaluation.best_of_n import pool_attempts
from prm_lightning.evaluation.data import leave_out, read_data, read_pools, read_processbench
from prm_lightning.evaluation.evaluate import main
from prm_lightning.evaluation.results import Table, render
from prm_lightning.evaluation.scored import Scored
from prm_lightning.evaluation.scored_models import fit_on
from prm_lightning.files import job_lock
from prm_lightning.modeling.aggregate import choose_aggregation
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.prm import PRM
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution, Step


def solution(problem, *texts, labels=None, source="s") -> Solution:
    labels = labels or [None] * len(texts)
    steps = tuple(Step(t, label) for t, label in zip(texts, labels, strict=True))
    return Solution(problem, steps, source, f"{problem}:{'/'.join(texts)}")


def test_threshold_and_its_data_are_named():
    right, wrong = [1.0, 1.0], [1.0, 0.0]
    scored = [
        Scored(solution("a", "x", "y", labels=right), (0.9, 0.8)),
        Scored(solution("b", "x", "y", labels=wrong), (0.9, 0.6)),
    ]
    threshold = fit_on(scored, "val.jsonl (2 solutions)")
    assert 0.6 < threshold.value <= 0.8
    assert threshold.fitted_on == "val.jsonl (2 solutions)"
    with pytest.raises(ValueError, match=r"val\.jsonl.* no wrong solutions"):
        fit_on(scored[:1], "val.jsonl")


def test_problems_of_the_test_data_are_left_out_of_validation_data():
    tested = [solution("Ann has 3 apples and buys 12 more. How many has she?", "x")]
    copy = solution("  ann has 3 apples and buys 12 more; how many has she", "y")
    other = solution("A train runs 60 miles in 2 hours. How fast is it?", "y")
    kept, left_out = leave_out([copy, other], tested)
    assert (kept, left_out) == ([other], 1)


# The verb itself, with tiny models.

PROBLEMS = [f"Tom has {i} red and {i * 7} blue marbles. How many has he?" for i in range(2, 12)]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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
            prm.record_threshold(0.4, "val.jsonl")
        folder = tmp_path_factory.mktemp("prm") / f"model{seed}"
        prm.save_pretrained(folder)
        folders.append(str(folder))
    return folders


def evaluate(output: Path, *options: object) -> tuple[dict, list[dict]]:
    main([*map(str, options), "--output", str(output), "--resamples", "30"])
    scores = (output / "scores.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return json.loads((output / "results.json").read_text()), [json.loads(s) for s in scores]


def test_several_models_make_one_table_with_baselines_beside(tmp_path, tiny_prms, capsys):
    data = write(tmp_path / "pb.jsonl", processbench_rows())
    fit = write(tmp_path / "fit.jsonl", processbench_rows([PROBLEMS[0], "A train has 9 cars?"]))
    results, scores = evaluate(
        tmp_path / "out", "--benchmark", "processbench", "--data", data, "--model", *tiny_prms,
        "--fit_on", fit,
    )  # fmt: skip
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
    assert all(
        "2 left out whose problems are in the test data" in r["threshold_from"] for r in fitted
    )
    assert results["fit_on"]["left_out"] == 2
    prm, kept = PRM.from_pretrained(tiny_prms[0]), read_processbench([str(fit)]).solutions[2:]
    validation = [Scored(s, prm.score(s.problem, [[t.text for t in s.steps]])[0]) for s in kept]
    assert fitted[0]["threshold"] == pytest.approx(fit_on(validation, "").value, abs=1e-6)
    row = next(r for r in results["rows"] if r["part"] == "gsm8k" and r["kind"] == "model")
    assert row["metrics"]["f1"]["low"] <= row["metrics"]["f1"]["value"]
    assert len(scores) == 4 * 20
    assert scores[0] | {"scores": None} == {
        "model": tiny_prms[0], "id": "math-1", "source": "math", "problem": PROBLEMS[0],
        "steps": ["0 + 0 is what we need.", "That is 0."], "labels": [1.0, 1.0], "scores": None,
        "first_error": -1,
    }  # fmt: skip
    out = capsys.readouterr().out
    assert out.startswith((tmp_path / "out" / "table.md").read_text()[:200])
    assert not list(tmp_path.glob(".out*"))  # no journal is left


def test_the_saved_threshold_is_named_and_no_other_is_made_up(tmp_path, tiny_prms):
    data = write(tmp_path / "pb.jsonl", processbench_rows())
    results, _ = evaluate(
        tmp_path / "out", "--benchmark", "processbench", "--data", data, "--model", *tiny_prms,
        "--baselines", "cheap",
    )  # fmt: skip
    thresholds = {m["name"]: (m["threshold"], m["threshold_from"]) for m in results["models"]}
    assert thresholds == {tiny_prms[0]: (0.4, "val.jsonl"), tiny_prms[1]: (None, None)}  # no more


def test_scores_do_not_depend_on_what_else_is_evaluated(tmp_path, tiny_prms):
    rows = list(processbench_rows())
    scores = {}
    for name, part in (("all", rows), ("one", rows[4:5])):
        data = write(tmp_path / f"{name}.jsonl", part)
        _, lines = evaluate(
            tmp_path / name, "--benchmark", "steps", "--data", data, "--model", tiny_prms[0],
            "--baselines", "cheap",
        )  # fmt: skip
        scores[name] = {line["id"]: line["scores"] for line in lines}
    (id,) = scores["one"]
    assert scores["one"][id] == pytest.approx(scores["all"][id], abs=1e-6)
    assert scores["all"][id] == pytest.approx(
        PRM.from_pretrained(tiny_prms[0]).score(rows[4]["problem"], [rows[4]["steps"]])[0], abs=1e-6
    )


def test_an_untrained_twin_has_the_same_encoding_and_another_head(tiny_prms):
    trained = PRM.from_pretrained(tiny_prms[0])
    twins = [untrained_twin(Path(tiny_prms[0]), seed) for seed in (0, 0, 1)]
    assert twins[0].encode("1?", ["a"]) == trained.encode("1?", ["a"])
    first, same, other = (twin.score("1 + 1?", [["It is 2."]])[0] for twin in twins)
    assert first == same
    assert first != other


def test_steps_of_any_layout_and_of_a_list_of_sources(tmp_path, tiny_prms):
    write(tmp_path / "a.jsonl", [
        {"prompt": p, "completions": ["Add.", "Done."], "labels": [True, i % 2 == 0]}
        for i, p in enumerate(PROBLEMS)
    ])  # fmt: skip
    sources = tmp_path / "sources.yaml"
    sources.write_text(
        "- source: {class_path: prm_lightning.sources.Stepwise, init_args: "
        f"{{path: {tmp_path / 'a.jsonl'}}}}}\n  name: mine\n  limit: 4\n"
    )
    pb = write(tmp_path / "pb.jsonl", processbench_rows())
    options = ("--benchmark", "steps", "--model", tiny_prms[0], "--baselines", "cheap")
    results, _ = evaluate(tmp_path / "one", *options, "--data", sources)
    assert results["data"]["solutions"] == 4
    results, _ = evaluate(tmp_path / "two", *options, "--data", sources, pb)
    assert {row["part"] for row in results["rows"]} == {
        "all", "source/mine", "source/pb", "position/1", "position/2",
    }  # fmt: skip


def test_best_of_n_with_an_aggregation_from_validation(tmp_path, tiny_prms):
    data = write(tmp_path / "pool.jsonl", pool_rows())
    fit = write(tmp_path / "fit.jsonl", pool_rows(["A train has 9 cars?", PROBLEMS[3]]))
    results, scores = evaluate(
        tmp_path / "out", "--benchmark", "best-of-n", "--data", data, "--model", tiny_prms[0],
        "--fit_on", fit,
    )  # fmt: skip
    assert len(scores) == 3 * 30  # a sample without steps is not scored
    assert results["data"]["counts"] == {"sample without steps": 10, "sample without an answer": 10}
    model = results["models"][0]
    prm, pools = PRM.from_pretrained(tiny_prms[0]), read_pools(str(fit))[0][:1]
    validation = [
        Scored(s, prm.score(s.problem, [[t.text for t in s.steps]])[0])
        for s in pools[0].solutions()
    ]
    assert model["aggregation"] == choose_aggregation(*pool_attempts(pools, validation))[0]
    assert "chosen on" in model["aggregation_from"]
    assert "1 left out" in model["aggregation_from"]
    accuracy = {
        (r["method"], r["n"]): r["metrics"]["accuracy"]["value"]
        for r in results["rows"]
        if r["kind"] == "baseline"
    }
    assert accuracy["pass@1", 1] == pytest.approx(0.5)
    assert accuracy["oracle", 4] == 1.0
    assert accuracy["majority", 4] == 1.0  # two right votes against one wrong
    chosen = {
        r["aggregation"] for r in results["rows"] if r["chosen"] and r["model"] == tiny_prms[0]
    }
    assert chosen == {model["aggregation"]}


def test_majority_and_oracle_need_no_model(tmp_path):
    data = write(tmp_path / "pool.jsonl", pool_rows())
    results, scores = evaluate(tmp_path / "out", "--benchmark", "best-of-n", "--data", data)
    assert scores == []
    assert {r["method"] for r in results["rows"]} == {"pass@1", "majority", "oracle"}


def test_problems_that_a_model_was_trained_on_are_counted(tmp_path, tiny_prms):
    model = tmp_path / "model"
    shutil.copytree(tiny_prms[0], model)
    known = [PROBLEMS[0].upper(), PROBLEMS[3], "Another problem."]  # case does not matter
    hashes = [sha256(normalise_problem(p).encode()).hexdigest()[:16] for p in known]
    (model / "training_problems.json").write_text(json.dumps({"problems": hashes}))
    data = write(tmp_path / "pb.jsonl", processbench_rows())
    results, _ = evaluate(
        tmp_path / "out", "--benchmark", "steps", "--data", data, "--model", model, tiny_prms[1],
        "--baselines", "cheap",
    )  # fmt: skip
    notes = [note for note in results["notes"] if "was trained on" in note]
    assert notes == [f"{model} was trained on 2 of the problems in these data."]


def test_prmbench(tmp_path, tiny_prms):
    rows = [
        {"modified_question": p, "modified_process": ["Add.", "Done."], "error_steps": [1],
         "classification": "circular", "idx": str(i)}
        for i, p in enumerate(PROBLEMS)
    ]  # fmt: skip
    data = write(tmp_path / "prmbench.jsonl", rows)
    results, scores = evaluate(
        tmp_path / "out", "--benchmark", "prmbench", "--data", data, "--model", tiny_prms[0]
    )
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
        ("--benchmark best-of-n --model M --data pb.jsonl", "no problem with samples"),
        ("--benchmark best-of-n --model M --data empty.jsonl", "empty"),
        ("--benchmark processbench --data pb.jsonl --model M --limit 0", "--limit is 0"),
        ("--benchmark processbench --data pb.jsonl --model M --fit_on pb.jsonl", "leaves nothing"),
        ("--benchmark processbench --data pb.jsonl --model M --output .", "exists"),
        ("--benchmark nonsense --data pb.jsonl --model M", "benchmark"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, tiny_prms, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pb.jsonl", processbench_rows())
    write(tmp_path / "pool.jsonl", pool_rows())
    write(tmp_path / "empty.jsonl", [])
    (tmp_path / "bad.yaml").write_text("sources: [{source: 3}]\n")
    line = options.replace(" M", f" {tiny_prms[0]}").split()
    line += [] if "--output" in line else ["--output", "out"]
    with pytest.raises((ValueError, OSError), match=message) as caught:
        main(line)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_is_replaced_when_asked_alone(tmp_path):
    data = write(tmp_path / "pool.jsonl", pool_rows())
    line = ["--benchmark", "best-of-n", "--data", str(data), "--output", str(tmp_path / "out")]
    main(line)
    with pytest.raises(FileExistsError):
        main(line)
    main([*line, "--overwrite"])
    with (
        job_lock(tmp_path / "out", "evaluate"),
        pytest.raises(BlockingIOError, match="being written by process"),
    ):
        run_elsewhere([*line, "--overwrite"])
    (tmp_path / "out" / "thesis.tex").write_text("of somebody")
    with pytest.raises(FileExistsError, match=r"'thesis\.tex', which was not written by"):
        main([*line, "--overwrite"])
    assert (tmp_path / "out" / "thesis.tex").is_file()


def run_elsewhere(line: list[str]) -> None:
    """Run the verb in another process, and raise what it says."""
    code = f"from prm_lightning.evaluation.evaluate import main; main({line!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "BlockingIOError" in done.stderr:
        raise BlockingIOError(done.stderr.splitlines()[-1])


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from prm_lightning.evaluation.evaluate import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--fit_on" in done.stdout


def test_a_name_cannot_break_a_table():
    text = render(Table("t", ["a|b", "c"], [["x\ny", "1"]]))
    assert text.split("\n")[2:] == ["| a\\|b | c |", "| ---- | - |", "| x y  | 1 |"]


def test_data_without_ids_of_subsets_are_named_by_their_file(tmp_path):
    rows = [{**row, "id": f"row{i}"} for i, row in enumerate(processbench_rows())]
    data = read_processbench([str(write(tmp_path / "mine.jsonl", rows))])
    assert {s.source for s in data.solutions} == {"mine"}


def test_steps_after_the_first_error_are_context(tmp_path):
    row = {"prompt": "1?", "completions": ["a", "b", "c"], "labels": [True, False, True]}
    (read,) = read_data([str(write(tmp_path / "a.jsonl", [row]))]).solutions
    assert [step.weight > 0 for step in read.steps] == [True, True, False]
