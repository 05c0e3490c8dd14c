"""The page about sources: its YAML builds every source."""

import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from prm_lightning import sources
from prm_lightning.sources.mixture import SourceSpec
from prm_lightning.types import Source

PAGE = (Path(__file__).parents[1] / "docs" / "sources.md").read_text(encoding="utf-8")


def build(text):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sources", type=list[SourceSpec])
    return parser.instantiate(parser.parse_object({"sources": yaml.safe_load(text)})).sources


def test_one_line_builds_each_source_that_there_is():
    (listed,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    built = build(listed)
    assert len(built) == len(listed.splitlines())
    assert all(isinstance(spec.source, Source) for spec in built)
    named = {type(spec.source).__name__ for spec in built}
    assert named == {*sources.__all__} - {"SourceSpec", "FileSource", "open_source"}


def test_an_unknown_source_is_named():
    with pytest.raises(AttributeError, match="no attribute 'Stepwize'"):
        sources.Stepwize  # noqa: B018
