"""`train` is `fit` from Python: from rows, a file or sources, to the same folder and model."""

import json

import pytest
from datasets import Dataset
from test_training import adapter, metrics, options, write_rows

from prm_lightning import PRM, train
from prm_lightning.sources import Stepwise
from prm_lightning.training.cli import main


@pytest.fixture
def arguments(tiny_model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return {
        "backbone": {"name": str(tiny_model_folder("qwen3")), "dtype": "float32"},
        "model": {"lr": 1e-2},
        "data": {"val_ratio": 0.25, "tokens_per_batch": 512, "solutions_per_step": 6},
        "trainer": {
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
        },
        "checkpoint_every": 2,
    }


@pytest.mark.slow
def test_train_does_what_fit_does_from_any_rows(arguments, tiny_model_folder, tmp_path):
    file = write_rows(tmp_path / "rows.jsonl")
    main(["fit", *options(tiny_model_folder("qwen3"), file, tmp_path / "fit")])
    expected = adapter(tmp_path / "fit" / "final_model")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kinds = {"list": lines, "dataset": Dataset.from_list(lines), "source": Stepwise(str(file))}
    scores = []
    for name, rows in {**kinds, "file": str(file), "resumed at its end": str(file)}.items():
        output = tmp_path / ("file" if name.startswith("resumed") else name)
        prm = train(rows, output=output, **arguments)
        assert isinstance(prm, PRM)
        scores.append(prm.score("1 + 1?", ["1 + 1 = 2", "So 2"]))
        found = adapter(output / "final_model")
        assert all(expected[key].equal(found[key]) for key in expected), name
        assert (output / "report.html").is_file()
        assert list(json.loads((output / "data.json").read_text())["sources"]) == ["rows"]
    assert metrics(tmp_path / "file") == metrics(tmp_path / "fit")
    assert scores[-1] == scores[-2]


def test_a_setting_in_the_wrong_place_names_the_right_one():
    with pytest.raises(ValueError, match=r"'lr' is no part .* Give model=\{'lr': 1e-4\}"):
        train([{}], backbone="x", lr=1e-4)
    with pytest.raises(ValueError, match="train: there are no rows"):
        train([], backbone="x")
