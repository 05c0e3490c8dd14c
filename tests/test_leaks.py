"""Problems of evaluation data on the training side: found, listed, left out."""

import json
import random
import time

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_lightning.sources.layouts import ProcessBench
from prm_lightning.sources.mixture import SourceSpec
from prm_lightning.sources.splits import FIRST, exclude, near_groups, nearest, report_leaks
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution, Step

LONG = (
    "Mike needed a new pair of jeans. When he got to the mall he saw that his favourite jeans "
    "were {}% off. The original price of the jeans was $40. How much money will Mike have left?"
)


def solution(problem, id=""):
    return Solution(problem, (Step("s", 1.0),), "s", id)


def write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_problems_of_other_files_are_left_out(tmp_path):
    rows = [
        {"prompt": "<|user|>\nOne  apple?<|end|>\n<|assistant|>\n"},
        {"problem": "TWO apples"},
        {"question": "Three apples?", "answer": "3"},
        {"input": "Four apples? Step 1: there are 4 ки", "label": "…"},
        {"question": {"problem": "Six apples?"}, "label": {}},
    ]
    file = write(tmp_path / "held_out.jsonl", *rows)
    problems = ["one apple", "Two apples.", "three apples"]
    problems += ["Four apples?", "Five apples?", "six apples"]
    kept, reports = exclude([solution(p) for p in problems], [file])
    assert [s.problem for s in kept] == ["Five apples?"]
    assert [reports[file][key] for key in ("problems", "exact", "left_out")] == [5, 5, True]
    assert reports[file]["first"][1] == {
        "source": "s",
        "id": "",
        "problem": "Two apples.",
        "found_at": f"{file}:2",
        "similarity": 1.0,
    }
    assert exclude(kept, []) == (kept, {})
    many = write(tmp_path / "many.jsonl", *({"problem": f"{n} pears"} for n in range(20)))
    report = exclude([solution(f"{n} pears") for n in range(3, 15)], [many])[1][many]
    assert (report["problems"], len(report["first"])) == (12, FIRST)


def test_near_duplicates_of_held_out_problems_are_left_out(tmp_path):
    held = write(tmp_path / "a.jsonl", {"problem": LONG.format(25)}, {"problem": "Another one?"})
    train = [solution(LONG.format(x), f"{x}") for x in (30, 25, 30)] + [solution("A third one?")]
    kept, reports = exclude(train, [held])
    assert kept == train[-1:]
    report = reports[held]
    assert [report[key] for key in ("problems", "exact", "near", "solutions")] == [2, 1, 1, 3]
    assert [leak["id"] for leak in report["first"]] == ["30", "25"]
    assert 0.4 <= report["first"][0]["similarity"] < report["first"][1]["similarity"] == 1
    assert {leak["found_at"] for leak in report["first"]} == {f"{held}:1"}


def test_evaluation_sources_are_reported_with_a_warning_and_kept(caplog):
    train = [solution(LONG.format(30), "t"), solution("alone")]
    reports = report_leaks(
        train, {"val_sources": [solution(LONG.format(25), "v")], "test_sources": []}
    )
    assert reports["val_sources"]["first"][0]["found_at"] == "s v"
    assert (reports["val_sources"]["near"], reports["val_sources"]["left_out"]) == (1, False)
    assert reports["test_sources"]["problems"] == 0
    (warning,) = caplog.messages
    assert "1 problems" in warning
    assert "data.exclude" in warning


def attempts(path, problems, wrong):
    """Two-step rows; so many of the problems have a wrong second step."""
    rows = [
        {"prompt": p, "completions": ["a", "b"], "labels": [True, k >= wrong]}
        for k, p in enumerate(problems)
    ]
    return [SourceSpec(Stepwise(write(path, *rows)))]


def test_a_run_reports_leaks_the_split_and_weights_of_its_training_side(tmp_path, tokenizer):
    from prm_lightning.batching.datamodule import PRMDataModule
    from prm_lightning.batching.encode import Encoder

    held = write(tmp_path / "held.jsonl", {"problem": LONG.format(25)})
    train = [LONG.format(30), "Seven?", *(f"What is {k} + 1?" for k in range(10))]
    data = PRMDataModule(
        attempts(tmp_path / "train.jsonl", train, wrong=3),
        Encoder(tokenizer, template="plain"),
        val_sources=attempts(tmp_path / "val.jsonl", ["seven", "Eight?", "Nine?"], wrong=3),
        test_sources=attempts(tmp_path / "test.jsonl", ["What is 4 + 1", "Ten?"], wrong=0),
        exclude=[held],
        template="plain",
        balance="weights",
    )
    data.setup("fit")
    report = data.report
    assert json.loads(json.dumps(report)) == report
    leaks = report["leaks"]
    assert [leaks[held][key] for key in ("near", "solutions", "left_out")] == [1, 1, True]
    assert [leaks["val_sources"][key] for key in ("exact", "left_out")] == [1, False]
    assert leaks["test_sources"]["first"][0]["found_at"] == "test test:0"
    assert (report["excluded"], report["train"]["problems"]) == (1, 11)
    assert "split" not in report
    # 11 solutions train, 2 of which have a wrong step: 20 right steps to 2 wrong ones.
    assert (report["train"]["correct_steps"], report["train"]["wrong_steps"]) == (20, 2)
    trained = data.sides["train"].data
    assert sorted({*trained.weights.tolist()}) == [1.0, 10.0]
    assert {*data.sides["validate"].data.weights.tolist()} == {1.0}


def test_a_run_reports_how_its_problems_were_split(tmp_path, tokenizer):
    from prm_lightning.batching.datamodule import PRMDataModule
    from prm_lightning.batching.encode import Encoder

    problems = [LONG.format(30), LONG.format(25), *(f"What is {k} + 1?" for k in range(10))]
    sources = attempts(tmp_path / "train.jsonl", problems, wrong=3)
    encoder = Encoder(tokenizer, template="plain")
    data = PRMDataModule(sources, encoder, template="plain", val_ratio=0.3)
    data.setup("fit")
    assert (data.report["split"]["groups"], data.report["split"]["near_duplicates"]) == (11, 1)
    assert data.report["leaks"] == {}
    assert data.report["train"]["problems"] + data.report["validation"]["problems"] == 12


@pytest.mark.parametrize("line", ['{"text": "p"}', '{"problem": 3}', "{bad"])
def test_a_row_whose_problem_cannot_be_read_is_refused(tmp_path, line):
    file = tmp_path / "f.jsonl"
    file.write_text('{"problem": "p"}\n' + line)
    with pytest.raises(ValueError, match=r"f\.jsonl:2: "):
        exclude([solution("p")], [str(file)])


def test_the_overlaps_of_the_development_files_are_found():
    train, test = (str(dev_data(f"trl_stepwise_{side}.jsonl")) for side in ("train", "test"))
    _, reports = exclude(list(Stepwise(test).read()), [train])
    assert reports[train]["exact"] == 0
    bench = list(ProcessBench(str(dev_data("processbench.jsonl"))).read())
    kept, reports = exclude(bench, [train, test])
    assert kept == []
    assert 191 <= reports[train]["solutions"] < 249


# ---- near duplicates, against a plain comparison of all pairs ----


def similarity(a, b):
    """Jaccard similarity of the word 5-grams of two normalised problems."""
    grams = [
        {tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (a.split(), b.split())
    ]
    either = len(grams[0] | grams[1])
    return 1.0 if a == b else len(grams[0] & grams[1]) / either if either else 0.0


def is_near(a, b):
    return similarity(a, b) >= 0.4


def naive_groups(texts):
    group = list(range(len(texts)))
    for i, a in enumerate(texts):
        for j, b in enumerate(texts[:i]):
            if is_near(a, b) and group[i] != group[j]:
                low, high = sorted((group[i], group[j]))
                group = [low if g == high else g for g in group]
    return group


@st.composite
def texts(draw):
    """Different texts of few words, many of which are others with a word changed or added."""
    words = st.lists(st.sampled_from("abcd"), min_size=0, max_size=20)
    found = draw(st.lists(words, min_size=1, max_size=12))
    for _ in range(draw(st.integers(0, 12))):
        near = [*draw(st.sampled_from(found)), *draw(words)[:3]]
        if near:
            near[draw(st.integers(0, len(near) - 1))] = draw(st.sampled_from("abcdefgh"))
        found.append(near)
    return list(dict.fromkeys(" ".join(text) for text in found))


@given(problems=texts())
def test_groups_are_those_of_comparing_every_pair(problems):
    assert near_groups(problems) == naive_groups(problems)


@settings(max_examples=50)
@given(problems=texts(), others=texts())
def test_the_nearest_are_those_of_comparing_every_pair(problems, others):
    found = nearest(problems, others)
    for i, problem in enumerate(problems):
        scores = [similarity(problem, other) for other in others]
        if max(scores) >= 0.4:
            assert found[i] == (scores.index(max(scores)), pytest.approx(max(scores)))
        else:
            assert i not in found


def test_nothing_and_short_texts_have_groups_of_their_own():
    assert near_groups([]) == []
    assert near_groups(["", "a", "a b c d"]) == [0, 1, 2]
    assert nearest([], ["a"]) == nearest(["a"], []) == {}


def test_the_development_problems_are_grouped_as_by_comparing_every_pair():
    files = ("trl_stepwise_train", "gsm8k_gen_stepwise_format")
    rows = (row for name in files for row in Stepwise(str(dev_data(f"{name}.jsonl"))).read())
    problems = sorted({normalise_problem(row.problem) for row in rows})[:200]
    groups = near_groups(problems)
    assert groups == naive_groups(problems)
    assert len(set(groups)) < len(problems)


def made_up(count, templates, numbers):
    """Problems of 40 words that differ in so many numbers from others of their template."""
    words = [f"w{k}" for k in range(400)]
    written = [random.Random(t).choices(words, k=40) for t in range(templates)]
    draw = random.Random(0)
    for k in range(count):
        text = list(written[k % templates])
        for place in range(numbers):
            text[3 + 8 * place] = str(draw.randint(2, 99))
        yield " ".join(text)


def test_time_grows_with_the_number_of_problems_and_not_of_pairs():
    """One large group, and many small ones: the worst cases of comparing within groups."""
    for templates in (1, 1000):
        problems = list(dict.fromkeys(made_up(4000, templates, 3)))
        start = time.process_time()
        groups = near_groups(problems)
        assert time.process_time() - start < 3
        assert len(set(groups)) == templates
