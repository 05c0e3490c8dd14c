"""Mistakes of settings that are one line, resuming with other batches, and that training trains."""

import csv
import json
import math
import subprocess
import sys

import pytest
import torch
from lightning import Callback
from test_files import HOLD
from test_training import adapter, assert_same_weights, fit, metrics, sources, write_rows  # noqa: F401

from prm_lightning.batching.datamodule import PRMDataModule
from prm_lightning.batching.encode import Encoder
from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.scorers import fingerprint, load_scorer
from prm_lightning.sources import Stepwise
from prm_lightning.sources.mixture import SourceSpec
from prm_lightning.training.callbacks import rank_validation

SHORT = {"trainer.max_steps": 4, "checkpoint_every": 2}


class Swaps(Callback):
    """Changes the weights after validation, as weight averaging does."""

    def on_validation_epoch_end(self, trainer, pl_module):
        adapters = [p for p in pl_module.model.backbone.parameters() if p.requires_grad]
        adapters[-1].data += 1.0


AVERAGING = {"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.1}}
ACCUMULATION = {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {0: 2}}}
PRUNING = {"class_path": "ModelPruning", "init_args": {"pruning_fn": "l1_unstructured"}}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("trainer.callbacks", [{"class_path": "EMAWeightAveraging"}], "swaps weights"),
        ("trainer.callbacks", [AVERAGING], "swaps weights"),
        ("trainer.callbacks", [{"class_path": "test_guards.Swaps"}], "not those that were valid"),
        ("trainer.callbacks", [ACCUMULATION], "solutions_per_step"),
        ("trainer.callbacks", [{"class_path": "LearningRateFinder"}], "model.head_lr"),
        ("trainer.callbacks", [{"class_path": "BackboneFinetuning"}], "model.backbone.lora"),
        ("trainer.callbacks", [PRUNING], "saved model would not hold"),
        ("trainer.val_check_interval", 0, "val_check_interval is 0"),
        ("trainer.check_val_every_n_epoch", 0, "check_val_every_n_epoch is 0"),
        ("model.head_lr", -1, "model.head_lr is -1.0, expected a number of 0 or more"),
        ("trainer.devices", 0, "devices"),
        ("ckpt_path", "lst", "there is none at 'lst'.*Give `last`"),
        ("trainer.overfit_batches", 2, "trainer.overfit_batches is 2"),
        ("trainer.accumulate_grad_batches", 4, "solutions_per_step=6 .*grad_batches=4"),
        ("trainer.accelerator", "gpu", "No supported gpu backend.*--trainer.accelerator cpu"),
        ("data.max_tokens", 8, r"no step of solution 'rows:\d+'.*max_tokens=8"),
        ("data.step_end", "not one", "step_end='not one' is"),
        ("data.tokens_per_batch", 0, r"data\.tokens_per_batch is 0"),
        ("model.backbone.name", "no/such-model", "cannot load 'no/such-model'.*hf download NAME"),
    ],
)
def test_what_does_not_suit_a_run_is_one_line(fit, option, value, message):  # noqa: F811
    if value == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    given = json.dumps(value) if isinstance(value, list) else value
    with pytest.raises(ValueError, match=message) as caught:
        fit(**SHORT, **{option: given})
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, UnicodeError)


def test_an_absent_file_of_rows_is_named_before_the_hub_is_asked(fit):  # noqa: F811
    absent = {"data.sources": "absent.jsonl", "model.backbone.name": "no/such-model"}
    with pytest.raises(FileNotFoundError, match=r"there is no file 'absent\.jsonl'"):
        fit(**absent)


def test_a_monitor_that_validation_does_not_have_is_refused_before_training(fit):  # noqa: F811
    with pytest.raises(ValueError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'\?"):
        fit(**SHORT, monitor="acuracy")


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["true", "false"])
def test_a_failed_run_is_not_in_the_way_and_seeds_may_be_left_to_chance(fit, tmp_path, seed):  # noqa: F811
    with pytest.raises(ValueError, match="overfit_batches"):
        fit(**SHORT, **{"trainer.overfit_batches": 2})
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert (fit(seed_everything=seed, **{"trainer.max_steps": 1}) / "final_model").is_dir()


def test_a_folder_that_another_process_trains_into_is_left_alone(fit, tmp_path):  # noqa: F811
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(BlockingIOError, match=f"fit: .*process {holder.pid} on"):
            fit(**SHORT)
        holder.kill()
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_few_steps_validates_keeps_models_and_says_what_it_does(fit, capsys):  # noqa: F811
    changes = {"data.solutions_per_step": 3, "save_models_every": 3, "monitor": "accuracy"}
    output = fit(**SHORT, **changes)
    rows = metrics(output)
    assert [row["step"] for row in rows if "val/auroc" in row] == ["3"]
    best = json.loads((output / "metrics.json").read_text())
    assert best["accuracy"] == pytest.approx(float(rows[-1]["val/accuracy"]))
    assert (output / "val_scores.jsonl").is_file()
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-3"]
    assert PRM.from_pretrained(output / "checkpoint-3")
    path = output / "checkpoints" / "step-000004.ckpt"
    problem, steps = "1 + 1?", ["1 + 1 = 2.", "So 2."]
    (whole,) = PRM.from_pretrained(output / "final_model").score(problem, [steps])
    (found,) = load_scorer(str(path)).score(problem, [steps])
    assert found == pytest.approx(whole, abs=1e-6)
    assert fingerprint(str(path)) != fingerprint(str(path.with_name("step-000002.ckpt")))
    printed = capsys.readouterr()
    heads = [line.partition(" ")[0] for line in printed.out.splitlines() if line[:1].isalpha()]
    for head in ("model", "sources", "train", "validation", "steps", "output"):
        assert head in heads
    for lightnings in ("GPU available", "train mode", "Total"):
        assert lightnings not in printed.out + printed.err
    assert "GPU available" in (output / "lightning.log").read_text()
    assert b"hp_metric" not in b"".join(f.read_bytes() for f in output.glob("events.*"))


@pytest.mark.slow
def test_a_checkpoint_resumes_with_smaller_batches(fit, monkeypatch, tmp_path):  # noqa: F811
    epoch = {"model.lr": 1e-3, "trainer.max_epochs": 1, "checkpoint_every": 2, "keep": -1}
    epoch |= {"data.solutions_per_step": 5}
    whole = fit("whole", **epoch)
    path = str(whole / "checkpoints" / "step-000002.ckpt")
    smaller = fit("smaller", "--ckpt_path", path, **epoch, **{"data.tokens_per_batch": 64})
    steps = [int(row["step"]) for row in metrics(smaller) if "train/loss" in row]
    expected = [int(row["step"]) for row in metrics(whole) if "train/loss" in row]
    assert steps == [step for step in expected if step >= 2]
    assert_same_weights(whole, smaller)
    with pytest.raises(ValueError, match=r"solutions_per_step=5, this run has 6.*model\.init_from"):
        fit("other", "--ckpt_path", path, **epoch | {"data.solutions_per_step": 6})


def test_training_changes_adapters_at_rates_that_rise_and_fall(fit):  # noqa: F811
    rates = {"model.lr": 1e-2, "model.head_lr": 3e-2, "model.warmup": 0.4}
    rates["model.backbone.kernels"] = "plain"  # asked for, so that it is logged
    first = fit("first", **rates, **{"data.solutions_per_step": 5, "trainer.max_epochs": 2})
    lora_b = [value for name, value in adapter(first / "final_model").items() if "lora_B" in name]
    assert lora_b
    assert all(value.abs().max() > 1e-4 for value in lora_b)  # they begin at zero
    with (first / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert all(float(row["throughput/tokens_per_second"]) > 0 for row in rows)
    assert all(float(row["train/kernels"]) == 0 for row in rows)
    backbone = [float(row["lr/backbone"]) for row in rows]
    head = [float(row["lr/head"]) for row in rows]
    assert head == pytest.approx([3 * rate for rate in backbone])
    top = backbone.index(max(backbone))
    assert 0 < top < len(backbone) - 2
    assert max(backbone) == pytest.approx(1e-2)
    assert backbone[: top + 1] == sorted(backbone[: top + 1])
    assert backbone[0] < 6e-3
    assert backbone[-1] < 3e-3


@pytest.mark.parametrize("name", ["loss", "brier", "ece", "auroc", "processbench_f1", "accuracy"])
def test_the_better_validation_ranks_higher(name):
    low, high = ({name: value, "auroc": 0.5} | {name: value} for value in (0.2, 0.3))
    assert (rank_validation(low, name) > rank_validation(high, name)) == (
        name in ("loss", "brier", "ece")
    )


@pytest.mark.slow
def test_the_best_model_is_the_best_validation_and_its_aggregation_may_be_fixed(fit):  # noqa: F811
    changes = {"model.aggregation": "prod", "model.lr": 0.3, "trainer.max_epochs": 4}
    output = fit(monitor="loss", **changes)
    rows = [row for row in metrics(output) if "val/loss" in row]
    losses = [float(row["val/loss"]) for row in rows]
    assert len(set(losses)) > 1
    assert json.loads((output / "metrics.json").read_text())["loss"] == pytest.approx(min(losses))
    assert all(row["val/pair_accuracy"] == row["val/pair_accuracy/prod"] for row in rows)
    assert json.loads((output / "best_model" / "prm.json").read_text())["aggregation"] == "prod"


@pytest.mark.slow
def test_validation_is_measured_without_dropout_and_in_any_batches(fit):  # noqa: F811
    dropout = {"model.backbone.lora": '{"r": 4, "alpha": 64, "dropout": 0.5}', **SHORT}
    run = fit(**dropout, **{"data.tokens_per_batch": 64})
    prm = PRM.from_pretrained(run / "best_model")
    prm.train()  # scoring turns dropout off, and back on
    costs = []
    for row in map(json.loads, (run / "val_scores.jsonl").read_text().splitlines()):
        (scores,) = prm.score(row["problem"], [row["steps"]])
        assert scores == pytest.approx(row["scores"], abs=1e-5)
        known = zip(row["scores"], row["labels"], strict=True)
        costs += [-math.log(p if label else 1 - p) for p, label in known if label is not None]
    assert prm.training
    loss = json.loads((run / "metrics.json").read_text())["loss"]
    assert loss == pytest.approx(sum(costs) / len(costs), rel=1e-5)


@pytest.mark.parametrize("balance", ["weights", "subsample"])
def test_balance_leaves_validation_alone(tokenizer, tmp_path, balance):
    rows = write_rows(tmp_path / "rows.jsonl")
    sides = {}
    for how in ("none", balance):
        spec = SourceSpec(Stepwise(str(rows)))
        data = PRMDataModule([spec], Encoder(tokenizer), balance=how, val_ratio=0.25)
        data.setup("fit")
        sides[how] = data.sides
    plain, balanced = sides["none"], sides[balance]
    assert (plain["validate"].data.weights == balanced["validate"].data.weights).all()
    assert plain["train"].data.weights.sum() != balanced["train"].data.weights.sum()
