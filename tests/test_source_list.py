"""Sources as people write them down: paths, rows, dicts, short names; in Python and for `fit`."""

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from raw_rows import write_lines

from prm_lightning import sources
from prm_lightning.sources import Corrupted, Gsm8k, SourceSpec, Stepwise
from prm_lightning.sources.mixture import as_specs, read_mixture
from prm_lightning.training.cli import main
from prm_lightning.types import Source

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "smollm2_gsm8k.yaml"
TRL = {"prompt": "2 + 3?", "completions": ["2 + 3 = 5"], "labels": [True]}


@pytest.fixture
def path(tmp_path):
    return write_lines(tmp_path / "rows.jsonl", TRL)


def forms(path):
    """All that may be written for one file of rows."""
    by_name = {"class_path": "Stepwise", "init_args": {"path": path}}
    dotted = {"class_path": "prm_lightning.sources.Stepwise", "init_args": {"path": path}}
    return [
        path, [path], {"path": path}, [{"path": path}], by_name, [{"source": by_name}],
        {"source": dotted}, {"source": {"path": path}}, {"source": path},
    ]  # fmt: skip


FORMS = range(len(forms("x")))


@pytest.mark.parametrize("form", FORMS)
def test_one_file_is_one_source_however_it_is_written(path, form):
    (spec,) = as_specs(forms(path)[form])
    assert spec == SourceSpec(Stepwise(path))
    assert [solution.problem for solution in read_mixture([spec]).solutions] == ["2 + 3?"]


SIDES = ("sources", "val_sources", "test_sources")  # three forms at a time


@pytest.mark.parametrize("first", FORMS[::3])
@pytest.mark.parametrize("where", ["command line", "file"])
def test_fit_takes_each_form_and_keeps_it(path, first, where, tmp_path, capsys):
    written = dict(zip(SIDES, forms(path)[first : first + 3], strict=True))
    if where == "file":
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": written}))
        options = ["--config", str(tmp_path / "mine.yaml")]
    else:
        texts = (form if isinstance(form, str) else json.dumps(form) for form in written.values())
        options = [f"--data.{side}={text}" for side, text in zip(SIDES, texts, strict=True)]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(CONFIG), *options, "--print_config"])
    assert not stopped.value.code
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert all(as_specs(data[side]) == [SourceSpec(Stepwise(path))] for side in SIDES)


@pytest.mark.parametrize(
    ("verb", "key"),
    [("fit", "sources"), ("test", "test_sources"), ("predict", "predict_sources")],
)
@pytest.mark.parametrize("options", [["--data", "X"], ["--data=X"]])
def test_data_with_a_file_of_rows_means_its_sources(path, verb, key, options, capsys):
    options = [option.replace("X", path) for option in options]
    with pytest.raises(SystemExit):
        main([verb, "--config", str(CONFIG), *options, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"][key] == path


@pytest.mark.parametrize(
    ("verb", "key"),
    [
        ("fit", "sources"),
        ("validate", "sources"),
        ("test", "test_sources"),
        ("predict", "predict_sources"),
    ],
)
def test_a_verb_without_rows_names_the_option(verb, key, tiny_model_folder, tmp_path):
    options = ["--model.backbone.name", str(tiny_model_folder()), "--output", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=f"to {verb}\\. Give .* or as --data\\.{key}\\."):
        main([verb, *options, "--trainer.accelerator", "cpu"])


def test_options_of_an_entry_and_nested_sources_are_taken(path, tmp_path):
    gold = {"class_path": "Gsm8k", "init_args": {"path": "g.jsonl"}}
    first, second, third = as_specs([
        {"path": path, "name": "mine", "repeat": 2, "limit": 3, "license": "MIT"},
        {"class_path": "Corrupted", "init_args": {"source": gold, "n": 6}, "repeat": 0.5},
        Stepwise(path),
    ])  # fmt: skip
    assert (first.repeat, first.limit, first.name, first.license) == (2, 3, "mine", "MIT")
    assert isinstance(second.source, Corrupted)
    assert (second.source.source, second.source.n, second.repeat) == (Gsm8k("g.jsonl"), 6, 0.5)
    assert third == SourceSpec(Stepwise(path))
    file = tmp_path / "list.yaml"
    file.write_text(yaml.safe_dump({"sources": [{"path": path}]}))
    assert as_specs(str(file)) == [SourceSpec(Stepwise(path))]
    assert as_specs(None) == []


def test_rows_in_memory_are_a_source():
    datasets = pytest.importorskip("datasets")
    for rows in ([TRL, TRL], datasets.Dataset.from_list([TRL, TRL])):
        (spec,) = as_specs(rows)
        assert len(list(spec.source.read())) == 2


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"class_path": "Stepwize"}, "'Stepwize' is no source of ours.*Did you mean 'Stepwise'"),
        ({"class_path": "Stepwise", "init_args": {"pth": "x"}}, "prm_lightning.sources.Stepwise"),
        ({"class_path": "Stepwise", "init_args": {"path": "x", "completions": "y"}}, "completions"),
        ({"class_path": "prm_lightning.types.Dropped"}, "source prm_lightning.types.Dropped"),
        ({"class_path": "nowhere.Source"}, "source nowhere.Source"),
        ({"paths": "x"}, "is no source, expected a path"),
        ({"path": "x", "class_path": "Stepwise"}, "is no source, expected a path"),
        ([3], "3 is no source"),
        (3, "3 is no source"),
        ([{"a": 1}], "is no source"),
    ],
)
def test_what_is_no_source_is_one_line(entry, words):
    with pytest.raises(ValueError, match=words) as error:
        as_specs(entry)
    assert len(str(error.value).splitlines()) == 1


def test_one_line_of_the_documentation_builds_each_source_that_there_is():
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sources", type=list[SourceSpec])
    built = parser.instantiate(parser.parse_object({"sources": yaml.safe_load(listed)})).sources
    assert len(built) == len(listed.splitlines())
    assert all(isinstance(spec.source, Source) for spec in built)
    named = {type(spec.source).__name__ for spec in built}
    assert named == {*sources.__all__} - {"SourceSpec", "FileSource", "open_source"}
