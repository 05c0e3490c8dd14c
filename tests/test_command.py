"""Command lines: options of verbs, of the environment, wrong ones, and completion."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Literal

import pytest

import prm_lightning
from prm_lightning.__main__ import VERBS, main
from prm_lightning.command import FOREIGN, UsageError, add_environment, run_verb
from prm_lightning.training import cli

ASK_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$(complete -p prm_lightning | sed -E 's/.*-F ([^ ]+).*/\\1/') 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


def verb(
    folder: str,
    /,
    output: str,
    model: list[str],
    max_steps: int = 3,
    overwrite: bool = False,
    method: Literal["beam", "dvts"] = "beam",
) -> tuple:
    """Do something with a folder.

    Args:
        folder: to read.
        output: to write to.
        model: one or several.
        max_steps: at most this many.
        overwrite: replace what is there.
        method: how it is done.
    """
    return folder, output, model, max_steps, overwrite


def run(monkeypatch, capsys, *words):
    """Exit status and what the command line printed."""
    monkeypatch.setattr(sys, "argv", ["prm_lightning", *words])
    try:
        status = main()
    except SystemExit as ended:  # of --help and --print_config
        status = ended.code
    return status, capsys.readouterr()


@pytest.mark.parametrize(
    "line",
    [
        "in --output o --model a b.yaml --max_steps 7 --overwrite",
        "in --out o --model a b.yaml --max-steps 7 --overwrite true",
        "in --overwrite --output-dir=o --max_steps=7 --model a b.yaml",
        'in --output_dir o --model ["a","b.yaml"] --max-steps 7 --overwrite',
        "in --config C --max_steps 7 --overwrite",
    ],
)
def test_options_may_be_spelt_in_several_ways(tmp_path, line):
    config = tmp_path / "c.yaml"
    config.write_text("output: o\nmodel: [a, b.yaml]\nmax_steps: 5\n")
    words = line.replace(" C ", f" {config} ").split()
    assert run_verb("try", verb, words) == ("in", "o", ["a", "b.yaml"], 7, True)


def test_a_text_that_ends_in_yaml_is_a_text():
    line = ["in", "--output", "o", "--model", "public.yaml"]
    assert run_verb("try", verb, line)[2] == ["public.yaml"]


WRONG = [
    ("try in --output o --model a --max_step 7", "--max_step. Did you mean '--max_steps'"),
    ("try in --output o --model a --lr 7", "there is no option --lr."),
    ("try in --output o --model a --max_steps seven", "--max_steps"),
    ("try in --output o --model a --method baem", "one of beam, dvts. Did you mean 'beam'"),
    ("try in --output o", "model"),
    ("try --output o --model=[a]", "folder"),
    ("try", "folder"),
    ("fti", "Did you mean 'fit'?"),
    ("completion fish", "fish"),
    ("search --method baem", "Did you mean 'beam'?"),
    ("fit --config C --trainer.max_step 6", "Did you mean '--trainer.max_steps'?"),
    ("fit --config C --trainer.max_steps six", "--trainer.max_steps: "),
    ("fit --config C --model.loss bec", "Did you mean 'bce'?"),
    ("fit --config C --model.learning_rate 1", "here it is --model.lr."),
    ("fit --config C --lr 1", "here it is --model.lr."),
    ("fit --config C --epochs 1", "here it is --trainer.max_epochs."),
    ("fit --config C --batch_size 1", "here it is --data.tokens_per_batch or "),
    ("fit --config C --optimizer SGD", "here it is none, since fit always takes AdamW"),
    ("fit --trainer.max_epochs 1", "--model.backbone.name"),
    ("score --model m", "give either --problem with --steps"),
    ("evaluate --benchmark steps --output o", "needs --data"),
    ("label --method 1", "needs a model: give --generator"),
    ("report a b", "--output report.html"),
    ("score --model m --\x1b[2J x", r"--\x1b[2J"),
    ("score --model m --aggregate mena", "expected one of min, prod, last, mean, geomean. Did you"),
    ("score --model m --threshold high", "--threshold: Expected a float. Got value: high."),
    ("label --method 3", "--method is '3', expected one of 1, 2."),
    ("score --config LOOP", "a configuration file cannot be read (maximum recursion"),
    ("score --config LATIN", "a configuration file cannot be read ('utf-8' codec"),
    ("fit --config LATIN", "a configuration file cannot be read ('utf-8' codec"),
]


@pytest.mark.parametrize(("line", "expected"), WRONG)
def test_wrong_command_lines_have_one_status_and_one_line(
    monkeypatch, capsys, tmp_path, line, expected
):
    (tmp_path / "loop.yaml").write_text("a: &a [*a]\n")
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe9\n")
    for name, path in (("LOOP", tmp_path / "loop.yaml"), ("LATIN", tmp_path / "latin.yaml")):
        line = line.replace(name, str(path))
    words = line.replace(" C ", " configs/quickstart.yaml ").split()
    if words[0] == "try":
        with pytest.raises(UsageError, match=re.escape(expected)) as caught:
            run_verb("try", verb, words[1:])
        assert str(caught.value).startswith("try: ")
        assert "\n" not in str(caught.value)
        return
    status, printed = run(monkeypatch, capsys, *words)
    assert status == 2
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert expected in printed.err


def test_the_names_of_others_lead_to_options_that_exist(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prm_lightning", "fit", "--help_all"])
    with pytest.raises(SystemExit):
        cli.main()
    known = capsys.readouterr().out
    wanted = {name for ours in FOREIGN.values() for name in re.findall(r"--[\w.]+", ours)}
    absent = {name for name in wanted if not re.search(rf"{re.escape(name)}\b", known)}
    assert not absent - {
        "--model.backbone.lora.r",  # of a class that --model.backbone.lora names
        "--model.backbone.lora.alpha",
        "--model.schedule",
    }


def test_help_shows_what_the_docstring_says(capsys):
    with pytest.raises(SystemExit):
        run_verb("try", verb, ["--help"])
    text = capsys.readouterr().out
    assert "Do something with a folder." in text
    assert "at most this many" in text


def test_fit_shows_what_matters_and_on_request_the_rest(monkeypatch, capsys):
    short = run(monkeypatch, capsys, "fit", "--help")[1].out
    assert 20 < short.count("\n  --") < 30
    assert "test_sources" not in short
    assert len(short.splitlines()) < 80
    assert "--data.sources " in short
    assert "--trainer.max_epochs " in short
    assert "see `" not in short
    assert "--trainer.detect_anomaly" not in short
    assert "--trainer.detect_anomaly" in run(monkeypatch, capsys, "fit", "--help_all")[1].out
    assert "--data.test_sources" in run(monkeypatch, capsys, "test", "--help")[1].out


def test_the_version_is_known(monkeypatch, capsys):
    version = prm_lightning.__version__
    assert run(monkeypatch, capsys, "--version")[1].out == f"prm_lightning {version}\n"


@pytest.mark.parametrize(
    ("verb", "args", "expected"),
    [
        ("fit", [], ["--config=a.yaml", "--trainer.max_epochs=3"]),
        ("score", [], ["--device=cpu"]),
        ("report", ["a"], ["a"]),
        ("try", ["--x", "2"], ["--x=1", "--x", "2"]),
        ("try", ["--config", "c", "--x=2"], ["--config", "c", "--x=1", "--x=2"]),
        ("try", ["--config=c", "-c", "d", "--x=2"], ["--config=c", "-c", "d", "--x=1", "--x=2"]),
        ("try", ["--config"], ["--config", "--x=1"]),
    ],
)
def test_the_environment_of_a_verb_comes_after_files_and_before_the_rest(verb, args, expected):
    environ = {
        "PRM_FIT__TRAINER__MAX_EPOCHS": "3",
        "PRM_FIT__CONFIG": "a.yaml",
        "PRM_FIT__OUTPUT": "",
        "PRM_SCORE__DEVICE": "cpu",
        "PRM_TRY__X": "1",
        "PRM_LIGHTNING_CACHE": "off",
    }
    assert add_environment(verb, args, environ) == expected


def test_a_light_verb_takes_the_environment(tmp_path, monkeypatch, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("device: cuda\nthreshold: 0.2\n")
    monkeypatch.setenv("PRM_SCORE__DEVICE", "cpu")
    monkeypatch.setenv("PRM_SCORE__THRESHOLD", "0.3")
    words = ["score", "--model", "m", "--config", str(config)]
    _, printed = run(monkeypatch, capsys, *words, "--threshold", "0.4", "--print_config")
    assert "device: cpu" in printed.out
    assert "threshold: 0.4" in printed.out
    assert printed.err == "environment  --device=cpu --threshold=0.3\n"
    monkeypatch.setenv("PRM_SCORE__MODLE", "m")
    status, printed = run(monkeypatch, capsys, *words)
    assert (status, "--modle" in printed.err) == (2, True)


def test_lightnings_verbs_take_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("PRM_FIT__CONFIG", "configs/quickstart.yaml")
    monkeypatch.setenv("PRM_FIT__TRAINER__MAX_EPOCHS", "3")
    monkeypatch.setenv("PRM_FIT__MODEL__LR", "0.5")
    _, printed = run(monkeypatch, capsys, "fit", "--model.lr", "0.25", "--print_config")
    assert "max_epochs: 3" in printed.out
    assert "lr: 0.25" in printed.out


@pytest.mark.slow
def test_a_shell_completes_verbs_options_and_choices(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    command = [sys.executable, "-m", "prm_lightning", "completion", "bash"]
    script = tmp_path / "prm_lightning.bash"
    script.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def completed(*words):
        asked = ["bash", "-c", ASK_BASH, "ask", str(script), "prm_lightning", *words]
        return set(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split())

    assert completed("") >= set(VERBS)
    assert completed("sc") == {"score"}
    assert {"--model", "--steps"} <= completed("score", "--")
    assert "--data.tokens_per_batch" in completed("fit", "--data.tok")
    methods = {"best_of_n", "weighted_majority", "beam", "dvts"}
    assert completed("search", "--method", "") == methods
