"""Splitting by problem, near duplicates together, class balance; problems of evaluation data."""

import json
import random
import time

import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import write_lines

from prm_lightning.batching.datamodule import PRMDataModule
from prm_lightning.batching.encode import Encoder
from prm_lightning.sources.layouts import ProcessBench
from prm_lightning.sources.mixture import SourceSpec
from prm_lightning.sources.splits import (
    FIRST,
    balance,
    exclude,
    near_groups,
    nearest,
    report_leaks,
    split_by_group,
)
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution, Step

LONG = (
    "Mike needed a new pair of jeans. When he got to the mall he saw that his favourite jeans "
    "were {}% off. The original price of the jeans was $40. How much money will Mike have left?"
)


def solution(problem, *labels, group="", id="", weight=1.0):
    steps = tuple(Step("s", label=label, weight=weight) for label in labels or (1.0,))
    return Solution(problem=problem, steps=steps, source="s", id=id, group=group)


def attempts(problems, each=3):
    return [
        solution(f"What is {p} + 1?", id=f"{p}:{k}") for p in range(problems) for k in range(each)
    ]


def ids(solutions):
    return {solution.id for solution in solutions}


@given(
    problems=st.integers(2, 40),
    ratio=st.floats(0, 0.99),
    seed=st.integers(0, 99),
    order=st.randoms(use_true_random=False),
)
def test_a_split_keeps_problems_together_whatever_the_order(problems, ratio, seed, order):
    solutions = attempts(problems)
    train, val, _ = split_by_group(solutions, ratio, seed)
    assert sorted(s.id for s in train + val) == sorted(s.id for s in solutions)
    assert not {s.problem for s in train} & {s.problem for s in val}
    count = len({s.problem for s in val})
    assert count == 0 if ratio == 0 else 1 <= count <= problems - 1
    order.shuffle(solutions)
    shuffled = split_by_group(solutions, ratio, seed)
    assert ids(shuffled.validation) == ids(val)
    assert [s for s in solutions if s in shuffled.train] == shuffled.train


def test_the_share_of_validation_is_as_asked():
    _, val, report = split_by_group(attempts(5000, 1), 0.1, 17)
    assert 430 < len(val) < 570
    assert report == {
        "groups": 5000,
        "near_duplicates": 0,
        "moved": {"keys": 0, "solutions": 0},
        "largest": {"keys": 1, "solutions": 1},
    }


def test_a_split_is_the_same_in_every_process_and_differs_by_seed():
    split = [sorted(ids(split_by_group(attempts(50, 1), 0.2, seed)[1])) for seed in (0, 0, 1)]
    assert split[0] == split[1] != split[2]
    assert [s.problem for s in split_by_group(attempts(8, 1), 0.25, 17)[1]] == ["What is 1 + 1?"]


def test_copies_of_a_problem_and_named_groups_stay_on_one_side():
    copies = [solution("Two plus  TWO?"), solution("two plus two")] * 3
    assert split_by_group(copies, 0.5, 0)[:2] == (copies, [])  # one group cannot be split
    named = [solution(f"p{k}", group=f"g{k % 2}") for k in range(10)]
    train, val, _ = split_by_group(named, 0.1, 0)
    assert [len(train), len(val)] == [5, 5]
    assert len({s.group for s in val}) == 1


def test_near_duplicates_in_writing_without_spaces_are_found():
    one = "学校图书馆有{}本故事书，借出了35本以后，又买来了20本，现在图书馆一共有多少本故事书？"
    other = "一个长方形的长是12厘米，宽是8厘米，这个长方形的面积是多少平方厘米？"
    texts = [normalise_problem(text) for text in (one.format(120), one.format(240), other)]
    assert near_groups(texts) == [0, 0, 2]


WORDS = ["ann", "buys", "red", "apples", "and", "3", "7", "pears", "how", "many", "now"]


@st.composite
def mixtures(draw):
    """Solutions of problems that are often near duplicates of one another, some with a group."""
    texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14)
    problems = draw(st.lists(texts, min_size=2, max_size=8))
    for _ in range(draw(st.integers(0, 8))):
        near = list(draw(st.sampled_from(problems)))
        near[draw(st.integers(0, len(near) - 1))] = draw(st.sampled_from(WORDS))
        problems.append(near + draw(texts)[: draw(st.integers(0, 3))])
    groups = st.sampled_from(["", "", "", "template 1", "template 2"])
    return [
        solution(" ".join(words).upper() + "?", group=draw(groups), id=str(k))
        for k, words in enumerate(problems)
    ]


@given(solutions=mixtures(), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_no_problem_near_duplicate_or_group_is_on_both_sides_of_any_mixture(solutions, ratio, seed):
    train, val, _ = split_by_group(solutions, ratio, seed)
    assert len(train) + len(val) == len(solutions)
    for a in train:
        for b in val:
            assert not is_near(*(normalise_problem(s.problem) for s in (a, b)))
            assert not a.group or a.group != b.group


@given(seed=st.integers(0, 99), more=st.integers(0, 40))
def test_more_rows_move_only_what_they_join(seed, more):
    before, after = (split_by_group(attempts(n, 1), 0.4, seed)[1] for n in (30, 30 + more))
    assert ids(before) == ids(after) & ids(attempts(30, 1))


def test_near_duplicates_move_together_and_are_counted():
    text = "Kim sleeps from {} p m to {} a m and dreams of {} sheep how many hours does Kim sleep"
    lone = [solution(text.format(9 + k % 3, 5 + k // 3, 100), id=str(k)) for k in range(6)]
    rest = [solution(f"What is {p} + {p}?", id=f"rest {p}") for p in range(200)]
    split = split_by_group([*lone, *rest], 0.5, 3)
    sides = [split_by_group([s, *rest], 0.5, 3) for s in lone]
    own = [s.id in ids(side.validation) for s, side in zip(lone, sides, strict=True)]
    together = lone[0].id in ids(split.validation)
    assert split.report["near_duplicates"] == 1
    assert split.report["largest"] == {"keys": 6, "solutions": 6}
    moved = own.count(not together)
    assert split.report["moved"] == {"keys": moved, "solutions": moved}
    assert 0 < moved < 6


def test_an_empty_validation_side_is_explained(caplog):
    text = "Kim sleeps from 9 p m to {} a m and dreams of many sheep how many hours is that"
    _, val, _ = split_by_group([solution(text.format(k)) for k in range(5, 9)], 0.5, 0)
    assert val == []
    assert "all 4 problems are near duplicates of each other" in caplog.text


def test_large_groups_do_not_all_validate():
    text = "{0} {1} sells {0} pears on every {1} and keeps {1} {0} for a neighbour called {2}"
    pairs = [(f"a{g}", f"b{g}") for g in range(200)]
    rows = [solution(text.format(*pair, k)) for pair in pairs for k in range(8)]
    split = split_by_group(rows, 0.2, 0)
    assert split.report["groups"] == 200
    assert 20 < len(split.validation) / 8 < 60


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r"val_ratio=.* is outside \[0, 1\)"):
        split_by_group(attempts(3), ratio, 0)


def total(solutions, wrong):
    return sum(
        step.weight
        for s in solutions
        for step in s.steps
        if step.label is not None and (step.label < 0.5) == wrong
    )


def test_weights_balance_the_classes_and_leave_correct_steps_alone():
    solutions = [solution("p", 1, 1, 0.5, 0.2, weight=0.5), solution("q", 1, 0, None)]
    balanced = balance(solutions, "weights", 0)
    assert total(balanced, wrong=True) == pytest.approx(total(balanced, wrong=False))
    assert total(balanced, wrong=False) == total(solutions, wrong=False)
    assert balanced[1].steps[2] == solutions[1].steps[2]


def test_weights_are_capped_and_may_shrink():
    assert total(balance([solution("p", *[1] * 100, 0)], "weights", 0), wrong=True) == 20
    assert total(balance([solution("p", 1, *[0] * 4)], "weights", 0), wrong=True) == 1


@given(correct=st.integers(0, 30), wrong=st.integers(0, 30), seed=st.integers(0, 9))
def test_subsampling_leaves_as_many_of_each_class(correct, wrong, seed):
    labels = [1.0] * correct + [0.0] * wrong
    random.Random(seed).shuffle(labels)
    solutions = [solution(f"p{k}", *labels[k : k + 4], None) for k in range(0, len(labels), 4)]
    balanced = balance(solutions, "subsample", seed)
    counts = (total(balanced, wrong=False), total(balanced, wrong=True))
    if correct and wrong:
        assert counts == (min(correct, wrong),) * 2
    else:
        assert balanced == solutions
    assert balanced == balance(solutions, "subsample", seed)
    for before, after in zip(solutions, balanced, strict=True):
        assert [s.label for s in after.steps] == [s.label for s in before.steps]


def test_steps_without_weight_or_label_do_not_count():
    idle = solution("q", 0, 0, 0, None, weight=0.0)
    solutions = [solution("p", 1, 1, 0), idle]
    for how in ("weights", "subsample"):
        balanced = balance(solutions, how, 0)
        assert balanced[1] == idle
        assert total(balanced, wrong=True) == total(balanced, wrong=False)
    assert balance(solutions, "none", 0) == solutions


# ---- problems of evaluation data -----------------------------------------------------------------


def test_problems_of_other_files_are_left_out(tmp_path):
    rows = [
        {"prompt": "<|user|>\nOne  apple?<|end|>\n<|assistant|>\n"},
        {"problem": "TWO apples"},
        {"question": "Three apples?", "answer": "3"},
        {"input": "Four apples? Step 1: there are 4 ки", "label": "…"},
        {"question": {"problem": "Six apples?"}, "label": {}},
    ]
    file = write_lines(tmp_path / "held_out.jsonl", *rows)
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
    many = write_lines(tmp_path / "many.jsonl", *({"problem": f"{n} pears"} for n in range(20)))
    report = exclude([solution(f"{n} pears") for n in range(3, 15)], [many])[1][many]
    assert (report["problems"], len(report["first"])) == (12, FIRST)


def test_near_duplicates_of_held_out_problems_are_left_out(tmp_path):
    held = write_lines(
        tmp_path / "a.jsonl", {"problem": LONG.format(25)}, {"problem": "Another one?"}
    )
    train = [solution(LONG.format(x), id=f"{x}") for x in (30, 25, 30)] + [solution("A third one?")]
    kept, reports = exclude(train, [held])
    assert kept == train[-1:]
    report = reports[held]
    assert [report[key] for key in ("problems", "exact", "near", "solutions")] == [2, 1, 1, 3]
    assert [leak["id"] for leak in report["first"]] == ["30", "25"]
    assert 0.4 <= report["first"][0]["similarity"] < report["first"][1]["similarity"] == 1
    assert {leak["found_at"] for leak in report["first"]} == {f"{held}:1"}


def test_evaluation_sources_are_reported_with_a_warning_and_kept(caplog):
    train = [solution(LONG.format(30), id="t"), solution("alone")]
    reports = report_leaks(
        train, {"val_sources": [solution(LONG.format(25), id="v")], "test_sources": []}
    )
    assert reports["val_sources"]["first"][0]["found_at"] == "s v"
    assert (reports["val_sources"]["near"], reports["val_sources"]["left_out"]) == (1, False)
    assert reports["test_sources"]["problems"] == 0
    (warning,) = caplog.messages
    assert "val_sources too: 1, and 0 of them" in warning
    assert "data.exclude" in warning


def rows_of(path, problems, wrong):
    """Two-step rows; so many of the problems have a wrong second step."""
    rows = [
        {"prompt": p, "completions": ["a", "b"], "labels": [True, k >= wrong]}
        for k, p in enumerate(problems)
    ]
    return [SourceSpec(Stepwise(write_lines(path, *rows)))]


def test_a_run_reports_leaks_the_split_and_weights_of_its_training_side(tmp_path, tokenizer):
    held = write_lines(tmp_path / "held.jsonl", {"problem": LONG.format(25)})
    train = [LONG.format(30), "Seven?", *(f"What is {k} + 1?" for k in range(10))]
    data = PRMDataModule(
        rows_of(tmp_path / "train.jsonl", train, wrong=3),
        Encoder(tokenizer, template="plain"),
        val_sources=rows_of(tmp_path / "val.jsonl", ["seven", "Eight?", "Nine?"], wrong=3),
        test_sources=rows_of(tmp_path / "test.jsonl", ["What is 4 + 1", "Ten?"], wrong=0),
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
    problems = [LONG.format(30), LONG.format(25), *(f"What is {k} + 1?" for k in range(10))]
    sources = rows_of(tmp_path / "train.jsonl", problems, wrong=3)
    encoder = Encoder(tokenizer, template="plain")
    data = PRMDataModule(sources, encoder, template="plain", val_ratio=0.3)
    data.setup("fit")
    assert (data.report["split"]["groups"], data.report["split"]["near_duplicates"]) == (11, 1)
    assert data.report["leaks"] == {}
    assert data.report["train"]["problems"] + data.report["validation"]["problems"] == 12


@pytest.mark.parametrize("line", ['{"text": "p"}', '{"problem": 3}', "{bad"])
def test_a_row_whose_problem_cannot_be_read_is_refused(tmp_path, line):
    file = write_lines(tmp_path / "f.jsonl", {"problem": "p"}, line)
    with pytest.raises(ValueError, match=r"f\.jsonl:2: "):
        exclude([solution("p")], [file])


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
