"""Whole runs through the command line: what they write, and what they do not depend on."""

import csv
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compared_runs import differences
from conftest import dev_data
from torch.testing import assert_close

from prm_lightning.command import UsageError
from prm_lightning.modeling.aggregate import AGGREGATIONS
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.prm import PRM
from prm_lightning.training.callbacks import ClosingTable
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
        "trainer.enable_model_summary": False,
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


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["pair_accuracy", "accuracy"])
def test_the_best_model_may_be_chosen_by_any_metric_and_its_aggregation_be_fixed(fit, monitor):
    output = fit(monitor=monitor, **{"model.aggregation": "prod", "model.lr": 0.1})
    rows = [row for row in metrics(output) if "val/auroc" in row]
    assert all(row["val/pair_accuracy"] == row["val/pair_accuracy/prod"] for row in rows)
    assert json.loads((output / "best_model" / "prm.json").read_text())["aggregation"] == "prod"
    assert output.joinpath("val_scores.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("per_step", [4, None])
def test_throughput_is_logged_beside_the_loss(fit, per_step):
    changes = {"trainer.log_every_n_steps": 2, "trainer.max_epochs": 1}
    changes |= {"data.solutions_per_step": per_step or "null", "data.tokens_per_batch": 128}
    output = fit(**changes)
    with (output / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert rows
    assert all(float(row["throughput/tokens_per_second"]) > 0 for row in rows)


@pytest.mark.slow
def test_checkpoints_hold_what_is_trained_and_nothing_else(fit):
    output = fit()
    checkpoint = torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)
    names = set(checkpoint["state_dict"])
    assert "prm.head.weight" in names
    assert all("lora_" in name or "head" in name for name in names)
    final = adapter(output / "final_model")
    assert_close(checkpoint["state_dict"]["prm.head.weight"], final["weight"], rtol=0, atol=0)


@pytest.mark.slow
def test_training_finds_the_wrong_steps(fit):
    output = fit(**{"trainer.max_epochs": 25, "data.balance": "weights"})
    best = max(float(row["val/auroc"]) for row in metrics(output) if "val/auroc" in row)
    assert best > 0.8


class KilledError(Exception):
    """Stands for a process that dies."""


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [3, 5, 7])
def test_a_killed_run_resumes_as_if_nothing_had_happened(fit, monkeypatch, dies_at):
    dropout = {"model.backbone.lora": '{"r": 4, "alpha": 8, "dropout": 0.2}'}
    whole = fit("whole", **dropout)
    take_step = PRMModule.training_step

    def die(module, batch, batch_idx):
        if module.trainer.global_step == dies_at:
            raise KilledError
        return take_step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PRMModule, "training_step", die)
        with pytest.raises(KilledError):
            fit("part", **dropout)
    part = fit("part", "--ckpt_path", "last", **dropout)
    assert differences(whole, part) == []


@pytest.mark.parametrize("loss", ["bce", "pqm"])
def test_steps_do_not_depend_on_how_they_are_cut_into_batches(fit, loss):
    changes = {"model.loss": loss, "trainer.max_epochs": 1, "trainer.max_steps": 3}
    changes["model.lm_loss"] = 0.5
    large = fit("large", **changes, **{"data.tokens_per_batch": 4096})
    small = fit("small", **changes, **{"data.tokens_per_batch": 64})
    assert_same_weights(large, small)


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(tiny_model_folder, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", problems=13)
    outputs = []
    for devices in (1, 2):
        outputs.append(tmp_path / f"ddp{devices}")
        changes = {"trainer.devices": devices, "trainer.max_epochs": 1, "model.lm_loss": 0.3}
        if devices == 2:
            changes["trainer.strategy"] = "ddp"
        arguments = options(tiny_model_folder("qwen3"), rows, outputs[-1], **changes)
        command = [sys.executable, "-m", "prm_lightning", "fit", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(*outputs)
    last = [metrics(output)[-1] for output in outputs]
    for name in ("val/auroc", "val/loss", "val/steps"):
        assert float(last[1][name]) == pytest.approx(float(last[0][name]), abs=1e-4), name


@pytest.mark.slow
def test_training_goes_on_from_another_runs_model(fit, tiny_model_folder):
    first = fit("first")
    still = {"model.init_from": first / "best_model", "model.lr": 0.0, "model.head_lr": 0.0}
    second = fit("second", **still)
    for key, value in adapter(first / "best_model").items():
        assert torch.equal(adapter(second / "final_model")[key], value), key
    with pytest.raises(ValueError, match=r"model\.init_from: .* 'scalar'.* 'classes'"):
        fit("third", **{"model.init_from": first / "best_model", "model.head": "classes"})


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("cosine", [0.5, 1.0, 1.0, 0.5]),
        ("linear", [0.5, 1.0, 1.0, 0.5]),
        ("constant", [0.5, 1, 1, 1]),
    ],
)
def test_the_learning_rate_rises_and_then_follows_its_schedule(schedule, shares):
    found = [learning_rate_share(step, 2, 6, schedule) for step in (0, 1, 2, 4)]
    assert found == pytest.approx(shares)


def test_learning_rates_have_defaults_by_kind(tiny_model_folder):
    name = str(tiny_model_folder("qwen3"))
    with_adapters, full = PRMModule(Backbone(name)), PRMModule(Backbone(name, lora=None))
    assert (with_adapters.lr, full.lr, full.head_lr) == (1e-3, 1e-4, 1e-3)
    assert PRMModule(Backbone(name), lr=0.0).lr == 0


def test_a_negative_weight_of_the_lm_loss_is_refused(tiny_model_folder):
    with pytest.raises(ValueError, match=r"model\.lm_loss is -1, expected a weight of 0 or more"):
        PRMModule(Backbone(str(tiny_model_folder("qwen3"))), lm_loss=-1)


def test_a_checkpoint_without_its_head_is_refused(fit):
    output = fit(**{"trainer.max_steps": 2})
    path = output / "checkpoints" / "last.ckpt"
    whole, checkpoint = (torch.load(path, weights_only=True) for _ in range(2))
    del checkpoint["state_dict"]["prm.head.weight"]
    WholeCheckpointIO().save_checkpoint(checkpoint, path)
    with pytest.raises(ValueError, match=r"checkpoint: .*missing \['prm\.head\.weight'\]"):
        fit("run", "--ckpt_path", "last", **{"trainer.max_steps": 2})
    checkpoint["prm"]["head"] = "classes"
    WholeCheckpointIO().save_checkpoint(checkpoint, path)
    with pytest.raises(ValueError, match=r"checkpoint: its head is 'classes', .* is 'scalar'"):
        fit("run", "--ckpt_path", "last", **{"trainer.max_steps": 2})
    whole["PRMDataModule"]["processes"] = 2
    WholeCheckpointIO().save_checkpoint(whole, path)
    with pytest.raises(ValueError, match=r"written by 2 processes, this run has 1"):
        fit("run", "--ckpt_path", "last", **{"trainer.max_steps": 2})


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(fit, caplog):
    whole = fit("whole")
    part = fit("part", **{"keep": 3})
    newest = sorted(part.glob("checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime)[-2:]
    for path in newest:
        path.write_bytes(path.read_bytes()[:-9])
    fit("part", "--ckpt_path", "last", **{"keep": 3})
    assert all(path.name in caplog.text for path in newest)
    for key, value in adapter(whole / "final_model").items():
        assert torch.equal(value, adapter(part / "final_model")[key]), key
    assert metrics(part) == metrics(whole)


@pytest.mark.slow
def test_test_and_predict_write_their_files(fit, tmp_path, tiny_model_folder):
    output = fit()
    rows = write_rows(tmp_path / "unseen.jsonl", problems=4)
    common = ["--config", str(output / "config.yaml"), "--output", str(output)]
    common += ["--model.init_from", str(output / "best_model")]
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
    with pytest.raises(FileExistsError, match="Continue it with --ckpt_path last"):
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


def test_bad_input_is_named(fit, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text(json.dumps({"prompt": "a", "completions": ["b"], "labels": [None]}))
    for path, message in (
        (tmp_path / "missing.jsonl", r"missing\.jsonl"),
        (empty, r"empty\.jsonl"),
        (unlabelled, "nothing is supervised"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            fit("bad", "--overwrite", **{"data.sources": sources(path)})
    with pytest.raises(ValueError, match=r"no step of solution 'rows:\d+'.*max_tokens=8"):
        fit("bad", "--overwrite", **{"data.max_tokens": 8})
    with pytest.raises(ValueError, match="step_end='not one' is"):
        fit("bad", "--overwrite", **{"data.step_end": "not one"})
    with pytest.raises(ValueError, match=r"data\.tokens_per_batch is 0"):
        fit("bad", "--overwrite", **{"data.tokens_per_batch": 0})
    with pytest.raises(
        UsageError, match=r"no option --data\.max_tokns\. Did you mean '--data.max_t"
    ):
        fit("bad", "--overwrite", "--data.max_tokns", "5")


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
@pytest.mark.parametrize("name", ["trl_stepwise_train.jsonl", "gsm8k_gen_stepwise_format.jsonl"])
def test_real_rows_train(fit, name):
    changes = {"data.sources": sources(dev_data(name)), "trainer.max_steps": 3}
    output = fit(**changes, **{"data.tokens_per_batch": 4096, "trainer.max_epochs": 1})
    report = json.loads((output / "data.json").read_text())
    (counts,) = report["sources"].values()
    assert counts["kept"] == counts["read"] > 900
    assert PRM.from_pretrained(output / "final_model")


@pytest.mark.slow
def test_the_door_gives_one_line_and_a_status():
    def call(*arguments):
        command = [sys.executable, "-m", "prm_lightning", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "fit" in call("--help").stdout
    unknown = call("train")
    assert unknown.returncode == 2
    assert "no verb 'train'" in unknown.stderr
    bad = call("score", "--model", "nowhere", "--problem", "a", "--steps", "b")
    assert bad.returncode == 1
    assert bad.stderr.strip().splitlines()[-1].startswith("error: prm: 'nowhere' is no folder")
    assert "Traceback" not in bad.stderr


class Gated(BaseHTTPRequestHandler):
    """A hub that refuses everybody."""

    def do_GET(self):
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_a_gated_model_names_the_token(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }
    arguments = options("meta-llama/gated", write_rows(tmp_path / "rows.jsonl"), tmp_path / "out")
    command = [sys.executable, "-m", "prm_lightning", "fit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    server.shutdown()
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: backbone: cannot load 'meta-llama/gated'")
    assert "HF_TOKEN" in last


def test_a_run_without_validation_says_that_nothing_was_measured(tmp_path, capsys):
    trainer = SimpleNamespace(is_global_zero=True)
    module = SimpleNamespace(last_metrics={}, best_metrics={})
    ClosingTable(tmp_path).on_fit_end(trainer, module)
    assert capsys.readouterr().out == "No validation data: nothing was measured.\n"
