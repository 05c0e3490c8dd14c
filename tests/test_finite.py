"""Optimizer steps whose gradient is not finite."""

import json

import pytest
import torch
from test_training import adapter, fit  # noqa: F401  a fixture

from prm_lightning.training.module import PRMModule


@pytest.fixture
def broken(monkeypatch):
    """`broken(fit, step)`: a run whose loss is NaN at one step; head weights before each step."""
    take_step = PRMModule.training_step
    heads: dict[int, torch.Tensor] = {}

    def run(fit, at: set[int], **changes):  # noqa: F811
        def step(module, batch, batch_idx):
            now = module.trainer.global_step
            heads[now] = module.model.head.weight.detach().clone()
            loss = take_step(module, batch, batch_idx)
            return loss * torch.nan if now in at else loss

        monkeypatch.setattr(PRMModule, "training_step", step)
        return fit(**changes), heads

    return run


def test_a_run_stops_at_a_nan_and_names_its_solutions(fit, broken, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=r"gradient of optimizer step 2 is nan.*nonfinite\.jsonl"):
        broken(fit, {2})
    (line,) = (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["step"] == 2
    assert len(row["solutions"]) == 6  # those of the whole step, over its batches
    assert all(name.startswith("rows:") for name in row["solutions"])
    assert row["lr"]["backbone"] > 0


@pytest.mark.slow
def test_a_skipped_step_changes_nothing(fit, broken):  # noqa: F811
    with pytest.warns(UserWarning, match="optimizer step 2 is skipped"):
        output, heads = broken(fit, {2}, **{"model.on_nan": "skip"})
    assert torch.equal(heads[3], heads[2])
    assert not torch.equal(heads[2], heads[1])
    assert not torch.equal(heads[4], heads[3])
    assert all(value.isfinite().all() for value in adapter(output / "final_model").values())
    assert len((output / "nonfinite.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_skips_have_a_limit(fit, broken):  # noqa: F811
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(ValueError, match="skipped before: 20, at most 20"),
    ):
        broken(fit, set(range(99)), **{"model.on_nan": "skip", "trainer.max_epochs": 10})
