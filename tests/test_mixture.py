"""Sources as people write them down, and several of them in one list: names, ids, counts."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from raw_rows import Fixed, write_lines

from prm_lightning import sources
from prm_lightning.sources import Corrupted, Gsm8k, SourceSpec, Stepwise, Synthetic
from prm_lightning.sources.mixture import as_specs, describe, fingerprint, read_mixture
from prm_lightning.training.cli import main, name_sources
from prm_lightning.types import Dropped, Solution, Source, Step

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "smollm2_gsm8k.yaml"
TRL = {"prompt": "2 + 3?", "completions": ["2 + 3 = 5"], "labels": [True]}


def solution(*labels, id="", source="fixed", problem="p"):
    return Solution(problem, tuple(Step("s", label=y) for y in labels), source, id)


def dropped(reason="bad", line=1):
    return Dropped(f"f:{line}", reason, f"f:{line}: {reason}")


def test_solutions_come_in_order_with_their_repeats():
    a, b = solution(1, id="a"), solution(0, id="b", source="other")
    mixture = read_mixture([SourceSpec(Fixed([a]), repeat=2.0), SourceSpec(Fixed([b]), repeat=0.0)])
    assert mixture.solutions == [a, b]
    assert mixture.repeats == [2.0, 0.0]


def test_a_name_overrides_and_ids_stay_unique():
    rows = [solution(1, id="r:0"), solution(1, id="r:0#2"), solution(1)]
    specs = [SourceSpec(Fixed(rows), name="mine"), SourceSpec(Fixed(rows), name="mine")]
    mixture = read_mixture([*specs, SourceSpec(Fixed(rows))])
    ids = [(s.source, s.id) for s in mixture.solutions]
    assert len(set(ids)) == 9
    assert ids[:4] == [("mine", "r:0"), ("mine", "r:0#2"), ("mine", "mine:2"), ("mine", "r:0#2#2")]
    assert ids[6:] == [("fixed", "r:0"), ("fixed", "r:0#2"), ("fixed", "fixed:2")]
    report = mixture.report()
    assert {name: entry["read"] for name, entry in report.items()} == {"mine": 6, "fixed": 3}


def test_a_limit_counts_the_first_rows_dropped_ones_included():
    rows = [dropped(), solution(1), solution(0)]
    specs = [SourceSpec(Fixed(rows), limit=2), SourceSpec(Fixed(rows)), SourceSpec(Fixed(rows))]
    mixture = read_mixture(specs[:1])
    assert [len(mixture.solutions), mixture.report()["fixed"]["read"]] == [1, 2]
    mixture = read_mixture(specs, max_rows=4)  # of all sources together
    assert [s.steps[0].label for s in mixture.solutions] == [1, 1]
    assert len(mixture.dropped["fixed"]) == 2
    assert len(read_mixture(specs, max_rows=99).solutions) == 5


def test_labels_and_weights_are_settled():
    rows = [Solution("p", (Step("a", reward=-0.5), Step("b", verdict="correct")), "s")]
    (kept,) = read_mixture([SourceSpec(Fixed(rows))]).solutions
    assert [(s.label, s.weight) for s in kept.steps] == [(0.0, 0.5), (1.0, 1.0)]
    wrong_first = [SourceSpec(Fixed([solution(0, 1)]))]
    (masked,) = read_mixture(wrong_first, after_first_error="mask").solutions
    assert [s.weight for s in masked.steps] == [1.0, 0.0]


def test_the_report_counts_by_reason_and_describes_what_is_kept():
    rows = [
        *(dropped("bad", line) for line in range(5)),
        solution(1, 1, 0, problem="One?"),
        dropped("worse"),
        solution(1, None, problem="one"),
    ]
    report = read_mixture([SourceSpec(Fixed(rows))]).report()
    assert json.loads(json.dumps(report)) == report
    assert report == {
        "fixed": {
            "read": 8,
            "kept": 2,
            "dropped": {
                "bad": {"count": 5, "first": ["f:0: bad", "f:1: bad", "f:2: bad"]},
                "worse": {"count": 1, "first": ["f:1: worse"]},
            },
            "solutions": 2,
            "problems": 1,
            "all_correct_solutions": 0,
            "steps": 5,
            "supervised_steps": 4,
            "correct_steps": 3,
            "wrong_steps": 1,
            "wrong_share": 0.25,
            "steps_per_solution": {"min": 2, "q25": 2, "median": 2, "q75": 3, "q95": 3, "max": 3},
            "characters_per_solution": dict.fromkeys(("min", "q25", "median"), 5)
            | dict.fromkeys(("q75", "q95", "max"), 7),
        }
    }


def test_a_licence_is_reported_where_it_is_stated():
    specs = [
        SourceSpec(Fixed([solution(1)]), name="mine", license="CC-BY-4.0"),
        SourceSpec(Fixed([solution(0)])),
        SourceSpec(Synthetic(1), name="made"),
    ]
    report = read_mixture(specs).report()
    found = {name: counts.get("license") for name, counts in report.items()}
    assert found == {"mine": "CC-BY-4.0", "fixed": None, "made": "Apache-2.0"}


def test_a_source_that_kept_nothing_is_reported():
    specs = [SourceSpec(Fixed([dropped()])), SourceSpec(Fixed([solution(1)]))]
    report = read_mixture(specs).report()
    assert (report["Fixed"]["read"], report["Fixed"]["kept"]) == (1, 0)
    assert describe([])["wrong_share"] is None


def test_strict_makes_the_first_dropped_row_an_error():
    with pytest.raises(ValueError, match=r"^f:7: bad$"):
        read_mixture([SourceSpec(Fixed([solution(1), dropped("bad", 7)]))], strict=True)


def test_a_mixture_without_supervision_is_refused_by_name():
    specs = [SourceSpec(Fixed([solution(None)])), SourceSpec(Fixed([dropped("odd")]), name="b")]
    with pytest.raises(ValueError, match=r"nothing is supervised.* fixed, b .*odd"):
        read_mixture(specs)
    with pytest.raises(ValueError, match=r"nothing is supervised.* no source"):
        read_mixture([])
    assert len(read_mixture(specs, unlabelled="allow").solutions) == 1


@pytest.mark.parametrize("options", [{"repeat": -1.0}, {"repeat": float("nan")}, {"limit": 0}])
def test_a_spec_out_of_range_is_refused(options):
    ((key, value),) = options.items()
    with pytest.raises(ValueError, match=f"SourceSpec: {key}={value} .*expected >="):
        SourceSpec(Fixed([]), **options)


def test_a_fingerprint_covers_content_and_order():
    base = [solution(1, 0, id="a"), solution(None, id="b")]
    step = base[0].steps[0]
    changed = [
        base[::-1],
        base[:1],
        [replace(base[0], problem="q"), base[1]],
        [replace(base[0], source="q"), base[1]],
        [replace(base[0], id="q"), base[1]],
        [base[0], solution(0, id="b")],
        [replace(base[0], steps=base[0].steps[::-1]), base[1]],
        *(
            [replace(base[0], steps=(replace(step, **new), base[0].steps[1])), base[1]]
            for new in ({"text": "t"}, {"label": 0.5}, {"label": None}, {"weight": 0.5})
        ),
    ]
    prints = [fingerprint(solutions) for solutions in (base, *changed)]
    assert len(set(prints)) == len(prints)
    assert fingerprint([solution(1.0, 0.0, id="a"), solution(None, id="b")]) == prints[0]
    assert len(prints[0]) == 64


# ---- as people write them ------------------------------------------------------------------------


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


@pytest.mark.parametrize("line", [["--data", "data.yaml"], ["--data=data.json"]])
def test_data_with_a_file_of_options_stays_what_it_is_for_lightning(line):
    assert name_sources(["fit", *line]) == ["fit", *line]


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
