"""The page about sources: its YAML builds every source, and its example of a new one reads rows."""

import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from raw_rows import labels, texts, write_lines

from prm_lightning import sources
from prm_lightning.sources.mixture import SourceSpec, read_mixture
from prm_lightning.types import Source

PAGE = (Path(__file__).parents[1] / "docs" / "sources.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def build(text):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sources", type=list[SourceSpec])
    return parser.instantiate(parser.parse_object({"sources": yaml.safe_load(text)})).sources


def test_one_line_builds_each_source_that_there_is():
    listed, _ = blocks("yaml")
    built = build(listed)
    assert len(built) == len(listed.splitlines())
    assert all(isinstance(spec.source, Source) for spec in built)
    named = {type(spec.source).__name__ for spec in built}
    assert named == {*sources.__all__} - {"SourceSpec", "FileSource", "open_source"}


def test_the_example_of_a_new_source_reads_rows(tmp_path, monkeypatch):
    (code,), (_, line) = blocks("python"), blocks("yaml")
    (tmp_path / "my_sources.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_lines(
        tmp_path / "graded.jsonl",
        {"question": "2 + 3 + 1?", "lines": ["2 + 3 = 6", "6 + 1 = 7"], "right": 0},
        {"question": "2 + 3?", "lines": ["2 + 3 = 5"], "right": 1},
        {"question": "", "lines": ["2 + 3 = 5"], "right": 1},
        {"question": "2 + 3?", "lines": ["2 + 3 = 5"], "right": 2},
    )
    mixture = read_mixture(build(line))
    wrong, right = mixture.solutions
    assert (texts(wrong), labels(wrong)) == (["2 + 3 = 6", "6 + 1 = 7"], [0.0, None])
    assert (labels(right), right.id) == ([1.0], "graded:1")
    dropped = mixture.report.to_json()["graded"]["dropped"]
    assert {reason: found["count"] for reason, found in dropped.items()} == {
        "no question": 1,
        "right is no count": 1,
    }


def test_an_unknown_source_is_named():
    with pytest.raises(AttributeError, match="no attribute 'Stepwize'"):
        sources.Stepwize  # noqa: B018
