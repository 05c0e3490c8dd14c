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
def test_train_does_what_fit_does(arguments, tiny_model_folder, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    main(["fit", *options(tiny_model_folder("qwen3"), rows, tmp_path / "fit")])
    prm = train(str(rows), output=tmp_path / "train", **arguments)
    assert isinstance(prm, PRM)
    assert metrics(tmp_path / "train") == metrics(tmp_path / "fit")
    again = train(str(rows), output=tmp_path / "train", **arguments)  # resumes at its end
    scores = [model.score("1 + 1?", ["1 + 1 = 2", "So 2"]) for model in (prm, again)]
    assert scores[0] == scores[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["list", "dataset", "source"])
def test_rows_in_memory_and_sources_train_like_their_file(arguments, tmp_path, kind):
    file = write_rows(tmp_path / "rows.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    rows = {"list": lines, "dataset": Dataset.from_list(lines), "source": Stepwise(str(file))}[kind]
    train(str(file), output=tmp_path / "file", **arguments)
    train(rows, output=tmp_path / kind, **arguments)
    first, second = (adapter(tmp_path / name / "final_model") for name in ("file", kind))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_setting_in_the_wrong_place_names_the_right_one():
    with pytest.raises(ValueError, match=r"'lr' is no part .* Give model=\{'lr': 1e-4\}"):
        train([{}], backbone="x", lr=1e-4)
    with pytest.raises(ValueError, match="train: there are no rows"):
        train([], backbone="x")
