"""Several sources in one list: names, ids, counts, fingerprint, and the YAML that builds them."""

import json
from dataclasses import replace

import pytest
from raw_rows import Fixed

from prm_lightning.sources.mixture import SourceSpec, describe, fingerprint, read_mixture
from prm_lightning.sources.synthetic import Synthetic
from prm_lightning.types import Dropped, Solution, Step


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
