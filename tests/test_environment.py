"""Options from environment variables: above files, below the command line."""

import sys

import pytest

from prm_lightning.__main__ import main
from prm_lightning.environment import insert_options, options_in


def test_a_variable_is_an_option_of_one_verb():
    environ = {
        "PRM_FIT__TRAINER__MAX_EPOCHS": "3",
        "PRM_FIT__CONFIG": "a.yaml",
        "PRM_FIT__OUTPUT": "",
        "PRM_SCORE__DEVICE": "cpu",
        "PRM_LIGHTNING_CACHE": "off",
        "PRM_TORCH_INDEX": "https://example.org",
    }
    assert options_in(environ, "fit") == ["--config=a.yaml", "--trainer.max_epochs=3"]
    assert options_in(environ, "score") == ["--device=cpu"]
    assert options_in(environ, "report") == []


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], ["--x=1"]),
        (["--x", "2"], ["--x=1", "--x", "2"]),
        (["--config", "c", "--x=2"], ["--config", "c", "--x=1", "--x=2"]),
        (["--config=c", "-c", "d", "--x=2"], ["--config=c", "-c", "d", "--x=1", "--x=2"]),
        (["--config"], ["--config", "--x=1"]),
    ],
)
def test_they_stand_behind_the_files_and_before_the_rest(args, expected):
    assert insert_options(args, ["--x=1"]) == expected


def output_of(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["prm_lightning", *words])
    with pytest.raises(SystemExit):
        main()
    return capsys.readouterr()


def test_a_light_verb_takes_them(tmp_path, monkeypatch, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("device: cuda\nthreshold: 0.2\n")
    monkeypatch.setenv("PRM_SCORE__DEVICE", "cpu")
    monkeypatch.setenv("PRM_SCORE__THRESHOLD", "0.3")
    words = ["score", "--model", "m", "--config", str(config)]
    said = output_of(monkeypatch, capsys, *words, "--threshold", "0.4", "--print_config")
    assert "device: cpu" in said.out
    assert "threshold: 0.4" in said.out
    assert said.err == "environment  --device=cpu --threshold=0.3\n"
    monkeypatch.setenv("PRM_SCORE__MODLE", "m")
    monkeypatch.setattr(sys, "argv", ["prm_lightning", *words])
    assert main() == 1
    assert "--modle" in capsys.readouterr().err


def test_lightnings_verbs_take_them(monkeypatch, capsys):
    monkeypatch.setenv("PRM_FIT__CONFIG", "configs/quickstart.yaml")
    monkeypatch.setenv("PRM_FIT__TRAINER__MAX_EPOCHS", "3")
    monkeypatch.setenv("PRM_FIT__MODEL__LR", "0.5")
    said = output_of(monkeypatch, capsys, "fit", "--model.lr", "0.25", "--print_config")
    assert "max_epochs: 3" in said.out
    assert "lr: 0.25" in said.out
    assert "problems: 170" in said.out
