"""What a run leaves of its validation data: the texts, and the best model's scores of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_training import options, write_rows

from prm_lightning.modeling.prm import PRM
from prm_lightning.training.cli import main
from prm_lightning.training.run_folder import VALIDATION_SCORES


def rows_of(run: Path) -> list[dict]:
    lines = (run / VALIDATION_SCORES).read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_run_leaves_the_best_models_scores_of_validation_data(tiny_model_folder, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl")
    run = tmp_path / "run"
    main(["fit", *options(tiny_model_folder("qwen3"), data, run)])
    rows = rows_of(run)
    report = json.loads((run / "data.json").read_text())
    assert len(rows) == report["validation"]["solutions"] == 6
    assert sum(len(row["steps"]) for row in rows) == report["validation"]["steps"]
    written = {}
    for line in data.read_text().splitlines():
        values = json.loads(line)
        written[values["prompt"], tuple(values["completions"])] = values["labels"]
    prm = PRM.from_pretrained(run / "best_model")
    for row in rows:
        labels = written[row["problem"], tuple(row["steps"])]
        assert row["first_error"] == (labels.index(False) if False in labels else -1)
        behind = row["first_error"] + 1 if False in labels else len(labels)
        assert row["labels"] == [*map(float, labels[:behind]), *[None] * (len(labels) - behind)]
        (scores,) = prm.score(row["problem"], [row["steps"]])
        assert row["scores"] == pytest.approx(scores, abs=1e-5)


@pytest.mark.slow
def test_two_processes_leave_one_file_and_one_report(tiny_model_folder, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", problems=13)
    run = tmp_path / "run"
    changes = {"trainer.devices": 2, "trainer.strategy": "ddp", "trainer.max_epochs": 1}
    arguments = options(tiny_model_folder("qwen3"), data, run, **changes)
    command = [sys.executable, "-m", "prm_lightning", "fit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report.html") == 1 and (run / "report.html").is_file()
    rows = rows_of(run)
    report = json.loads((run / "data.json").read_text())
    assert len({row["id"] for row in rows}) == len(rows) == report["validation"]["solutions"]
    prm = PRM.from_pretrained(run / "best_model")
    for row in rows:
        (scores,) = prm.score(row["problem"], [row["steps"]])
        assert row["scores"] == pytest.approx(scores, abs=1e-5)
