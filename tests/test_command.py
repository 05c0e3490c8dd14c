"""Command lines of verbs."""

from __future__ import annotations

import pytest

from prm_lightning.command import run_verb


def verb(
    folder: str, /, output: str, model: list[str], max_steps: int = 3, overwrite: bool = False
) -> tuple:
    """Do something with a folder.

    Args:
        folder: to read.
        output: to write to.
        model: one or several.
        max_steps: at most this many.
        overwrite: replace what is there.
    """
    return folder, output, model, max_steps, overwrite


@pytest.mark.parametrize(
    "line",
    [
        "in --output o --model a b --max_steps 7 --overwrite",
        "in --out o --model a b --max-steps 7 --overwrite true",
        "in --overwrite --output-dir=o --max_steps=7 --model a b",
        'in --output_dir o --model ["a","b"] --max-steps 7 --overwrite',
    ],
)
def test_options_may_be_spelt_in_several_ways(line):
    assert run_verb("try", verb, line.split()) == ("in", "o", ["a", "b"], 7, True)


def test_a_text_that_ends_in_yaml_is_a_text():
    line = ["in", "--output", "o", "--model", "public.yaml"]
    assert run_verb("try", verb, line)[2] == ["public.yaml"]


def test_a_config_file_gives_options_and_the_command_line_wins(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("output: o\nmodel: [a]\nmax_steps: 5\n")
    line = ["in", "--config", str(config), "--max_steps", "6"]
    assert run_verb("try", verb, line) == ("in", "o", ["a"], 6, False)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("in --output o --model a --max_step 7", "max_step"),
        ("in --output o --model a --max_steps seven", "max_steps"),
        ("in --output o", "model"),
        ("--output o --model=[a]", "folder"),
        ("", "folder|output"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(line, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        run_verb("try", verb, line.split())
    assert str(caught.value).startswith("try: ")
    assert "\n" not in str(caught.value)


def test_help_shows_what_the_docstring_says(capsys):
    with pytest.raises(SystemExit):
        run_verb("try", verb, ["--help"])
    text = capsys.readouterr().out
    assert "Do something with a folder." in text
    assert "at most this many" in text
