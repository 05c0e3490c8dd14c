"""Loggers of the user's beside the two that a run has."""

import csv
import importlib.util
import json

import pytest
from test_training import fit  # noqa: F401


def steps_of(path):
    with path.open(newline="") as file:
        return [row["step"] for row in csv.DictReader(file) if row.get("train/loss")]


@pytest.mark.slow
def test_a_logger_is_added_to_those_of_the_run(fit, tmp_path):  # noqa: F811
    theirs = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "mine"}}
    one = {"trainer.max_steps": 2, "trainer.logger": json.dumps(theirs)}
    run = fit("one", **one)
    assert steps_of(run / "metrics.csv") == ["0", "1"]
    assert steps_of(tmp_path / "mine" / "version_0" / "metrics.csv") == ["0", "1"]
    assert list(run.glob("events.*"))
    run = fit("list", **one | {"trainer.logger": json.dumps([theirs])})
    assert (run / "metrics.csv").is_file()
    assert (tmp_path / "mine" / "version_1" / "metrics.csv").is_file()


@pytest.mark.slow
def test_true_is_the_default_and_false_none(fit, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    run = fit("true", **{"trainer.max_steps": 1, "trainer.logger": "true"})
    assert (run / "metrics.csv").is_file()
    assert not (tmp_path / "lightning_logs").exists()
    run = fit("false", **{"trainer.max_steps": 1, "trainer.logger": "false"})
    assert (run / "best_model" / "prm.json").is_file()
    assert not [*run.glob("metrics.csv"), *run.glob("events.*")]


@pytest.mark.parametrize(
    ("logger", "library"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")]
)
def test_a_library_that_is_absent_is_named(fit, logger, library):  # noqa: F811
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(ValueError, match=f"fit: .*{library}.*pip") as caught:
        fit(**{"trainer.logger": logger})
    assert "\n" not in str(caught.value)
