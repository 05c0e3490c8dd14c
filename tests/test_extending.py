"""The examples of docs/extending.md run, and each closed set has one entry for each name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from raw_rows import labels, texts, write_lines

from prm_lightning.modeling.aggregate import AGGREGATORS
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.heads import HEADS, HeadKind
from prm_lightning.modeling.losses import COSTS, StepCost, reward_weighted_loss
from prm_lightning.modeling.model_folder import read_head
from prm_lightning.modeling.prm import PRM
from prm_lightning.sources.mixture import as_specs, read_mixture
from prm_lightning.types import Aggregation

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def example(heading: str, language: str = "python") -> str:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return block


def run(heading: str) -> None:
    exec(compile(example(heading), f"docs/extending.md, {heading}", "exec"), {})


@pytest.fixture(autouse=True)
def sets_as_they_were():
    """Take out again what an example adds."""
    before = [(entries, dict(entries)) for entries in (COSTS, HEADS, AGGREGATORS)]
    yield
    for entries, old in before:
        entries.clear()
        entries.update(old)


@pytest.mark.parametrize(
    ("names", "entries"), [(StepCost, COSTS), (HeadKind, HEADS), (Aggregation, AGGREGATORS)]
)
def test_each_name_of_a_closed_set_has_an_entry(names, entries):
    assert get_args(names) == tuple(entries)


def test_a_layout_is_one_class_and_one_line_of_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = example("A layout of data")
    assert len(code.split("@dataclass")[1].splitlines()) <= 45
    (tmp_path / "my_sources.py").write_text(code, encoding="utf-8")
    write_lines(
        tmp_path / "graded.jsonl",
        json.loads(re.search(r"^# (\{.*\})$", code, re.MULTILINE)[1]),
        {"question": "2 + 3 + 1?", "lines": ["2 + 3 = 6", "6 + 1 = 7"], "right": 0},
        {"question": "", "lines": ["2 + 3 = 5"], "right": 1},
        {"question": "2 + 3?", "lines": ["2 + 3 = 5"], "right": 2},
    )
    settings = yaml.safe_load(example("A layout of data", "yaml"))
    mixture = read_mixture(as_specs(settings["data"]["sources"]))
    first, second = mixture.solutions
    assert (texts(first), labels(first)) == (["3 * 4 = 12", "2 + 12 = 15"], [1.0, 0.0])
    assert (labels(second), second.id) == ([0.0, None], "graded:1")
    dropped = mixture.report()["graded"]["dropped"]
    assert {reason: found["count"] for reason, found in dropped.items()} == {
        "no question": 1,
        "right is no count": 1,
    }


def test_a_loss_is_one_function():
    run("A loss")
    logits = torch.linspace(-8, 8, 33)[None].requires_grad_()
    for label, falls in ((1.0, True), (0.0, False)):
        labels, weights = torch.full_like(logits, label), torch.ones_like(logits)
        loss = reward_weighted_loss(logits, labels, weights, weights.sum(), "gce")
        (grad,) = torch.autograd.grad(loss, logits)
        assert ((grad < 0) == falls).all()


def test_a_head_is_one_function(tiny_model_folder, tmp_path):
    run("A head")
    backbone = Backbone(str(tiny_model_folder()), dtype="float32", lora=None)
    prm = PRM.create(backbone, "three_classes", "plain")
    assert all(0 < score < 1 for score in prm.score("2 + 3?", ["2 + 3 = 5", "So 5."]))
    prm.save_pretrained(tmp_path / "model")
    saved = read_head(tmp_path / "model", "three_classes")
    assert torch.equal(saved.weight, prm.head.weight)


def test_an_aggregation_is_one_function():
    run("An aggregation")
