"""Whole runs through the command line: what they write, and what they do not depend on."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import dev_data
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prm_lightning.command import UsageError
from prm_lightning.modeling.aggregate import AGGREGATIONS
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.prm import PRM
from prm_lightning.training.callbacks import RunReport
from prm_lightning.training.checkpoints import WholeCheckpointIO
from prm_lightning.training.cli import main
from prm_lightning.training.module import PRMModule, learning_rate_share

PROBLEM = "Ann has {a} apples and buys {b} more. How many apples does she have now?"


def write_rows(path: Path, problems=12, attempts=3) -> Path:
    """Additions, the last attempt of each wrong in its first step."""
    with path.open("w") as file:
        for p in range(problems):
            a, b = 3 + p, 12 - p % 5
            for k in range(attempts):
                wrong = k == attempts - 1
                total = a + b + wrong
                steps = [f"She has {a} + {b} = {total} apples.", f"So the answer is {total}."]
                row = {
                    "prompt": PROBLEM.format(a=a, b=b),
                    "completions": [*["First we add."][:k], *steps],
                    "labels": [*[True][:k], not wrong, not wrong],
                }
                file.write(json.dumps(row) + "\n")
    return path


def sources(path: Path) -> str:
    stepwise = {"class_path": "prm_lightning.sources.Stepwise", "init_args": {"path": str(path)}}
    return json.dumps([{"source": stepwise}])


def options(model: Path, rows: Path, output: Path, **changes) -> list[str]:
    settings = {
        "model.backbone.name": model,
        "model.backbone.dtype": "float32",
        "model.lr": 1e-2,
        "data.sources": sources(rows),
        "data.val_ratio": 0.25,
        "data.tokens_per_batch": 512,
        "data.solutions_per_step": 6,
        "trainer.max_epochs": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
        "output": output,
        "checkpoint_every": 2,
    } | changes
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


@pytest.fixture
def fit(tiny_model_folder, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")

    def run(name="run", *extra, **changes) -> Path:
        output = tmp_path / name
        main(["fit", *options(tiny_model_folder("qwen3"), rows, output, **changes), *extra])
        return output

    return run


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors") | load_file(folder / "head.safetensors")


def metrics(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without what the clock decides."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if v and "throughput" not in k} for row in rows]


def assert_same_weights(a: Path, b: Path):
    """Up to float noise, which Adam blows up where a gradient is nothing but noise."""
    first, second = adapter(a / "final_model"), adapter(b / "final_model")
    assert first.keys() == second.keys()
    both = [torch.cat([side[key].flatten() for key in first]) for side in (first, second)]
    assert ((both[0] - both[1]).norm() / both[0].norm()).item() < 1e-3


def test_a_run_leaves_what_it_promises(fit):
    output = fit()
    for name in ("config.yaml", "data.json", "metrics.csv", "checkpoints/last.ckpt"):
        assert (output / name).is_file(), name
    assert list(output.glob("events.*"))
    assert list(output.glob("checkpoints/step-00*.ckpt"))
    report = json.loads((output / "data.json").read_text())
    assert report["sources"]["rows"]["read"] == report["sources"]["rows"]["kept"] == 36
    assert report["train"]["problems"] + report["validation"]["problems"] == 12
    logged = {name for row in metrics(output) for name in row}
    assert {"train/loss", "lr/head", "lr/backbone", "val/auroc", "val/processbench_f1"} <= logged
    board = EventAccumulator(str(output)).Reload().Tags()["scalars"]
    groups = {tag.rpartition("/")[0].partition("/")[0] for tag in board}  # no epoch, no hp_metric
    assert groups == {"lr", "throughput", "train", "val", "val_by_position", "val_by_source"}
    for name in ("best_model", "final_model"):
        prm = PRM.from_pretrained(output / name)
        (scores,) = prm.score("1 + 1?", [["1 + 1 = 2.", "So 2."]])
        assert all(0 < score < 1 for score in scores)
    record = json.loads((output / "best_model" / "prm.json").read_text())
    assert record["data_fingerprint"] == report["fingerprint"]
    assert record["threshold_fitted_on"] == "validation data of the training run"
    best = max(
        (row for row in metrics(output) if "val/auroc" in row),
        key=lambda row: (float(row["val/processbench_f1"]), float(row["val/auroc"])),
    )
    accuracies = {how: float(best[f"val/pair_accuracy/{how}"]) for how in AGGREGATIONS}
    assert record["aggregation"] == max(accuracies, key=accuracies.get)
    assert float(best["val/pair_accuracy"]) == max(accuracies.values())
    checkpoint = torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)
    assert all("lora_" in name or "head" in name for name in checkpoint["state_dict"])
    head = checkpoint["state_dict"]["prm.head.weight"]
    assert torch.equal(head, adapter(output / "final_model")["weight"])

    scored = assert_scores_of_the_best_model(output)
    assert len(scored) == report["validation"]["solutions"] == 6
    assert sum(len(row["steps"]) for row in scored) == report["validation"]["steps"]
    written = {}
    for line in (output.parent / "rows.jsonl").read_text().splitlines():
        values = json.loads(line)
        written[values["prompt"], tuple(values["completions"])] = values["labels"]
    for row in scored:
        labels = written[row["problem"], tuple(row["steps"])]
        assert row["first_error"] == (labels.index(False) if False in labels else -1)
        known = row["first_error"] + 1 if False in labels else len(labels)
        assert row["labels"] == [*map(float, labels[:known]), *[None] * (len(labels) - known)]


def assert_scores_of_the_best_model(run: Path) -> list[dict]:
    """The rows of val_scores.jsonl, which hold what best_model says."""
    lines = (run / "val_scores.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    prm = PRM.from_pretrained(run / "best_model")
    for row in rows:
        (scores,) = prm.score(row["problem"], [row["steps"]])
        assert row["scores"] == pytest.approx(scores, abs=1e-5)
    return rows


@pytest.mark.slow
def test_training_finds_the_wrong_steps(fit):
    output = fit(**{"trainer.max_epochs": 25, "data.balance": "weights"})
    best = max(float(row["val/auroc"]) for row in metrics(output) if "val/auroc" in row)
    assert best > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["bce", "pqm"])
def test_steps_do_not_depend_on_how_they_are_cut_into_batches(fit, loss):
    changes = {"model.loss": loss, "trainer.max_epochs": 1, "trainer.max_steps": 3}
    changes["model.lm_loss"] = 0.5
    large = fit("large", **changes, **{"data.tokens_per_batch": 4096})
    small = fit("small", **changes, **{"data.tokens_per_batch": 64})
    assert_same_weights(large, small)


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one_and_leave_one_report(fit, tiny_model_folder):
    one = fit("one", **{"trainer.max_epochs": 1, "model.lm_loss": 0.3})
    two = one.with_name("two")
    changes = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    changes |= {"trainer.max_epochs": 1, "model.lm_loss": 0.3}
    rows = one.with_name("rows.jsonl")
    arguments = options(tiny_model_folder("qwen3"), rows, two, **changes)
    command = [sys.executable, "-m", "prm_lightning", "fit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report.html") == 1 and (two / "report.html").is_file()
    assert_same_weights(one, two)
    for name in ("val/auroc", "val/loss", "val/steps"):
        found, expected = (float(metrics(run)[-1][name]) for run in (two, one))
        assert found == pytest.approx(expected, abs=1e-4), name
    ids = [row["id"] for row in assert_scores_of_the_best_model(two)]
    assert len(set(ids)) == len(ids) == 6


@pytest.mark.slow
def test_training_starts_from_another_runs_model(fit, tiny_model_folder):
    first = fit("first")
    still = {"model.init_from": first / "best_model", "model.lr": 0.0, "model.head_lr": 0.0}
    second = fit("second", **still)
    for key, value in adapter(first / "best_model").items():
        assert torch.equal(adapter(second / "final_model")[key], value), key
    with pytest.raises(ValueError, match=r"model\.init_from: .* 'scalar'.* 'classes'"):
        fit("third", **{"model.init_from": first / "best_model", "model.head": "classes"})


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_and_then_follows_its_schedule(schedule):
    found = [learning_rate_share(step, 2, 6, schedule) for step in (0, 1, 2, 4)]
    assert found == pytest.approx([0.5, 1, 1, 1 if schedule == "constant" else 0.5])


def test_learning_rates_have_defaults_by_kind(tiny_model_folder):
    name = str(tiny_model_folder("qwen3"))
    with_adapters, full = PRMModule(Backbone(name)), PRMModule(Backbone(name, lora=None))
    assert (with_adapters.lr, full.lr, full.head_lr) == (1e-3, 1e-4, 1e-3)
    assert PRMModule(Backbone(name), lr=0.0).lr == 0
    for wrong in ({"lm_loss": -1}, {"warmup": 1.5}):
        with pytest.raises(ValueError, match=rf"model\.{next(iter(wrong))} is .*, expected a"):
            PRMModule(Backbone(name), **wrong)


@pytest.mark.slow
def test_a_checkpoint_of_something_else_is_refused(fit):
    output = fit(**{"trainer.max_steps": 2})
    path = output / "checkpoints" / "last.ckpt"
    for places, value, message in (
        (("state_dict", "prm.head.weight"), None, r"missing \['prm\.head\.weight'\]"),
        (("prm", "head"), "classes", "its head is 'classes', .* is 'scalar'"),
        (("prm", "format_version"), 99, "its format_version is 99, .* is 1"),
        (("prm", "backbone"), "other/model", "its backbone is 'other/model', .*qwen3"),
        (("PRMDataModule", "processes"), 2, "written with processes=2, this run has 1"),
    ):
        checkpoint = torch.load(path, weights_only=True)
        part, name = places
        before = checkpoint[part].pop(name)
        if value is not None:
            checkpoint[part][name] = value
        WholeCheckpointIO().save_checkpoint(checkpoint, path)
        with pytest.raises(ValueError, match=message):
            fit("run", "--ckpt_path", "last", **{"trainer.max_steps": 2})
        checkpoint[part][name] = before
        WholeCheckpointIO().save_checkpoint(checkpoint, path)


@pytest.mark.slow
def test_test_and_predict_write_their_files(fit, tmp_path, tiny_model_folder):
    output = fit()
    rows = write_rows(tmp_path / "unseen.jsonl", problems=4)
    common = ["--config", str(output / "config.yaml"), "--output", str(output)]
    common += ["--model.init_from", str(output / "best_model")]
    common += ["--data.sources", "[]"]  # each verb needs its own alone
    main(["test", *common, "--data.test_sources", sources(rows)])
    record = json.loads((output / "test.json").read_text())
    manifest = json.loads((output / "best_model" / "prm.json").read_text())
    assert record["threshold"] == pytest.approx(manifest["threshold"])
    assert record["solutions"] == 12
    main(["predict", *common, "--data.predict_sources", sources(rows)])
    lines = [json.loads(x) for x in (output / "predictions.jsonl").read_text().splitlines()]
    prm = PRM.from_pretrained(output / "best_model")
    raw = [json.loads(x) for x in rows.read_text().splitlines()]
    assert [x["id"] for x in lines] == [f"unseen:{i}" for i in range(12)]
    for line, row in zip(lines, raw, strict=True):
        assert line["scores"] == pytest.approx(
            prm.score(row["prompt"], [row["completions"]])[0], abs=1e-5
        )


@pytest.mark.slow
def test_nothing_is_overwritten_unasked(fit, tmp_path):
    fit(**{"trainer.max_steps": 1})
    with pytest.raises(FileExistsError, match=r"holds a run already.*--ckpt_path last"):
        fit(**{"trainer.max_steps": 1})
    with pytest.raises(FileExistsError, match="another configuration"):
        fit("run", "--ckpt_path", "last", **{"trainer.max_steps": 1, "model.lr": 1e-3})
    with pytest.raises(FileNotFoundError):
        fit("run", "--overwrite", **{"data.sources": sources(tmp_path / "missing.jsonl")})
    assert (tmp_path / "run" / "best_model" / "prm.json").is_file()
    fit("run", "--overwrite", **{"trainer.max_steps": 1, "model.lr": 1e-3})
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is no folder of a run"):
        fit("other", "--overwrite")
    assert (other / "thesis.tex").exists()


def test_rows_without_content_and_unknown_options_are_named(fit, tmp_path):
    empty, unlabelled = tmp_path / "empty.jsonl", tmp_path / "unlabelled.jsonl"
    empty.touch()
    unlabelled.write_text(json.dumps({"prompt": "a", "completions": ["b"], "labels": [None]}))
    for path, message in ((empty, r"empty\.jsonl"), (unlabelled, "nothing is supervised")):
        with pytest.raises(ValueError, match=message):
            fit("bad", "--overwrite", **{"data.sources": sources(path)})
    with pytest.raises(UsageError, match=r"--data\.max_tokns\. Did you mean '--data.max_t"):
        fit("bad", "--overwrite", "--data.max_tokns", "5")


@pytest.mark.slow
def test_rows_that_cannot_be_used_are_counted_or_refused(fit, tmp_path):
    rows = write_rows(tmp_path / "some.jsonl")
    with rows.open("a") as file:
        file.write(json.dumps({"prompt": "a", "completions": ["b", "c"], "labels": [1]}) + "\n")
    output = fit(**{"data.sources": sources(rows), "trainer.max_steps": 1})
    dropped = json.loads((output / "data.json").read_text())["sources"]["some"]["dropped"]
    ((_, entry),) = dropped.items()
    assert entry["count"] == 1
    assert "some.jsonl:37" in entry["first"][0]
    with pytest.raises(ValueError, match=r"some\.jsonl:37"):
        fit("strict", **{"data.sources": sources(rows), "data.strict": True})


@pytest.mark.slow
def test_a_head_that_reads_likelihoods_is_trained_and_resumed(fit):
    changes = {"model.head": "likelihood", "model.lm_loss": 0.3, "keep": -1}
    whole = fit("whole", **changes)
    trained = adapter(whole / "final_model")
    assert 1e-4 < trained["likelihood"].abs() < 0.1
    assert trained["bias"] != 0
    path = str(whole / "checkpoints" / "step-000004.ckpt")
    assert_same_weights(whole, fit("resumed", "--ckpt_path", path, **changes))
    rows = [json.loads(line) for line in (whole / "val_scores.jsonl").open()]
    prm = PRM.from_pretrained(whole / "best_model")
    for row in rows[:4]:
        assert prm.score(row["problem"], row["steps"]) == pytest.approx(row["scores"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trl_stepwise_train.jsonl", "gsm8k_gen_stepwise_format.jsonl"])
def test_real_rows_train(fit, name):
    changes = {"data.sources": sources(dev_data(name)), "trainer.max_steps": 3}
    output = fit(**changes, **{"data.tokens_per_batch": 4096, "trainer.max_epochs": 1})
    report = json.loads((output / "data.json").read_text())
    (counts,) = report["sources"].values()
    assert counts["kept"] == counts["read"] > 900
    assert PRM.from_pretrained(output / "final_model")


def test_a_run_without_validation_says_that_nothing_was_measured(tmp_path, capsys):
    trainer = SimpleNamespace(is_global_zero=True)
    module = SimpleNamespace(last_metrics={}, best_metrics={})
    RunReport(tmp_path).on_fit_end(trainer, module)
    assert capsys.readouterr().out == "No validation data: nothing was measured.\n"


@pytest.mark.slow
def test_loggers_are_added_to_those_of_the_run(fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "mine"}}
    for k, logger in enumerate((theirs, [theirs], True)):
        run = fit(f"run{k}", **{"trainer.max_steps": 2, "trainer.logger": json.dumps(logger)})
        assert [row["step"] for row in metrics(run) if "train/loss" in row] == ["0", "1"]
        assert list(run.glob("events.*"))
    for k in (0, 1):
        rows = metrics(tmp_path / "mine" / f"version_{k}")
        assert [row["step"] for row in rows if "train/loss" in row] == ["0", "1"]
    assert not (tmp_path / "lightning_logs").exists()
    run = fit("false", **{"trainer.max_steps": 1, "trainer.logger": "false"})
    assert (run / "best_model" / "prm.json").is_file()
    assert not [*run.glob("metrics.csv"), *run.glob("events.*")]


def test_a_library_that_is_absent_is_named(fit):
    if importlib.util.find_spec("mlflow"):
        pytest.skip("mlflow is installed")
    with pytest.raises(ValueError, match=r"fit: .*mlflow.*pip") as caught:
        fit(**{"trainer.logger": "MLFlowLogger"})
    assert "\n" not in str(caught.value)
