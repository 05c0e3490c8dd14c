"""Step metrics against plain loops, worked examples, and the ways a batch may be cut."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean, quantiles, stdev

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_lightning.evaluation.results import draw_problems
from prm_lightning.modeling.aggregate import AGGREGATIONS, aggregate
from prm_lightning.modeling.metrics import (
    first_error_windows,
    fit_threshold,
    majority_scores,
    measure,
    measure_first_errors,
    measure_part,
)
from prm_lightning.modeling.scored_steps import (
    GatheredSteps,
    ScoredSolution,
    StepScores,
    to_step_scores,
    undrawn,
)
from prm_lightning.training.callbacks import rank_validation
from prm_lightning.types import ALL_CORRECT, UNKNOWN, StepBatch

SEEDS = st.integers(0, 2**16)
NAMES = ("easy", "hard")
FIELDS = ("logits", "labels", "first_error", "weights", "source", "id")


def solution(logits, labels, first_error, weights=None, source=0, id=7) -> dict:
    weights = weights or [1.0] * len(logits)
    return dict(zip(FIELDS, (logits, labels, first_error, weights, source, id), strict=True))


def random_solutions(seed: int, count: int = 12) -> list[dict]:
    """Plain lists with coarse logits, so that scores tie, and every kind of first error."""
    rng = random.Random(seed)
    solutions = []
    for index in range(count):
        steps = rng.randint(1, 11)
        wrong, cut = rng.randrange(steps), steps + rng.randint(0, 2)
        solutions.append(
            solution(
                rng.choices([-60, -2, -0.5, 0.0, 0.5, 1, 3, 60], k=steps),
                rng.choices([0.0, 0.2, 0.5, 0.9, 1.0], k=steps),
                rng.choice([ALL_CORRECT, wrong, wrong, cut, UNKNOWN]),
                rng.choices([0.0, 0.3, 1.0, 2.5], k=steps),
                source=rng.randrange(2),
                id=100 + index,
            )
        )
    return solutions


def drawn_solutions(count: int, seed: int, skill: float) -> StepScores:
    """Solutions of 2 to 7 steps, about half of them wrong; the wrong step's logit is lower."""
    rng = random.Random(seed)
    solutions = []
    for index in range(count):
        logits = [rng.gauss(skill, 1) for _ in range(rng.randint(2, 7))]
        error = rng.randrange(len(logits)) if index % 2 == 0 else ALL_CORRECT
        if error >= 0:
            logits[error] -= 2 * skill
        solutions.append(scored([sigmoid(z) for z in logits], error, problem=str(index)))
    return to_step_scores(solutions)


def scored(scores, error, labels=None, problem="p") -> ScoredSolution:
    labels = labels or [None] * len(scores)
    return ScoredSolution(scores, labels, error, "s", problem)


def collate(solutions: list[dict], pad: int = 0, filler: float = 0.0) -> tuple:
    """Logits and batch; `filler` is in every padded place that may hold anything."""
    width = max((len(row["logits"]) for row in solutions), default=0) + pad

    def padded(key: str, fill: float) -> torch.Tensor:
        rows = [row[key] + [fill] * (width - len(row[key])) for row in solutions]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), width)

    def column(key: str) -> torch.Tensor:
        return torch.tensor([row[key] for row in solutions], dtype=torch.int64)

    nothing = torch.zeros(0)  # in what is not read
    batch = StepBatch(*[nothing] * len(StepBatch._fields))._replace(
        labels=padded("labels", filler),
        weights=padded("weights", 0.0),
        step_counts=torch.tensor([len(row["logits"]) for row in solutions], dtype=torch.int64),
        first_errors=column("first_error"),
        sources=column("source"),
        solution_ids=column("id"),
    )
    return padded("logits", filler), batch


def gathered(*batches: list[dict], **collation: float) -> StepScores:
    steps = GatheredSteps()
    steps.begin(np.arange(200) // 3)  # three attempts per problem
    for solutions in batches:
        steps.update(*collate(solutions, **collation))
    return steps.compute()


def computed(*batches: list[dict], threshold: float | None = None, **collation: float) -> dict:
    return measure(gathered(*batches, **collation), NAMES, threshold)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def mean(values: list[float]) -> float:
    return fmean(values) if values else math.nan


def divide(a: float, b: float) -> float:
    return a / b if b else math.nan


def naive_steps(pairs: list[tuple[float, float]], threshold: float = 0.5) -> dict[str, float]:
    """Metrics of (probability, label) pairs, one step at a time."""
    hits = sum(p < threshold and y < 0.5 for p, y in pairs)
    misses = sum(p >= threshold and y < 0.5 for p, y in pairs)
    alarms = sum(p < threshold and y >= 0.5 for p, y in pairs)
    passes = len(pairs) - hits - misses - alarms
    right = [p for p, y in pairs if y >= 0.5]
    wrong = [p for p, y in pairs if y < 0.5]
    ranked = [float(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    precision = 0.0
    for p in wrong:  # the precision at each wrong step's own rank
        flagged = [y for q, y in pairs if q <= p]
        precision += sum(y < 0.5 for y in flagged) / len(flagged)
    calibration = 0.0
    for number in range(15):
        inside = [(p, y >= 0.5) for p, y in pairs if min(int(p * 15), 14) == number]
        calibration += abs(sum(p - y for p, y in inside))
    share = divide(len(wrong), len(pairs))
    return {
        "steps": len(pairs),
        "error_share": share,
        "majority_accuracy": max(share, 1 - share),
        "accuracy": divide(hits + passes, len(pairs)),
        "balanced_accuracy": (divide(hits, hits + misses) + divide(passes, passes + alarms)) / 2,
        "error_precision": divide(hits, hits + alarms),
        "error_recall": divide(hits, hits + misses),
        "error_f1": divide(2 * hits, 2 * hits + misses + alarms),
        "auroc": mean(ranked),
        "error_ap": divide(precision, len(wrong)),
        "brier": mean([(p - y) ** 2 for p, y in pairs]),
        "ece": divide(calibration, len(pairs)),
    }


def predicted_error(probabilities: list[float], threshold: float) -> int:
    return next((i for i, p in enumerate(probabilities) if p < threshold), -1)


def naive_processbench(solutions: list[dict], threshold: float) -> dict[str, float]:
    """F1, its halves and the match over both, one solution at a time."""
    matches: dict[bool, list[float]] = {True: [], False: []}
    for row in solutions:
        error = row["first_error"]
        if error == UNKNOWN or error >= len(row["logits"]):
            continue
        found = predicted_error([sigmoid(z) for z in row["logits"]], threshold)
        matches[error >= 0].append(float(found == error))
    wrong, right = mean(matches[True]), mean(matches[False])
    f1 = 0.0 if wrong + right == 0 else 2 * wrong * right / (wrong + right)
    return {"f1": f1, "wrong": wrong, "right": right, "match": mean(matches[True] + matches[False])}


def naive_smoothed_f1(windows: list[tuple], threshold: float, width: float) -> float:
    """Each half averaged over 4,000 thresholds of equal probability."""
    draws = [NormalDist().inv_cdf((k + 0.5) / 4000) for k in range(4000)]
    near = torch.tensor([sigmoid(logit(threshold) + width * draw) for draw in draws]).double()
    shares = {
        kind: fmean(
            ((near > low) & (near <= high)).double().mean().item()
            for low, high, wrong in windows
            if wrong == kind
        )
        for kind in (True, False)
    }
    total = sum(shares.values())
    return 2 * shares[True] * shares[False] / total if total else 0.0


def supervised(solutions: list[dict], position: int | None = None) -> list[tuple[float, float]]:
    pairs = []
    for row in solutions:
        steps = zip(row["logits"], row["labels"], row["weights"], strict=True)
        for index, (logit, label, weight) in enumerate(steps):
            if weight > 0 and position in (None, min(index, 8)):
                pairs.append((sigmoid(logit), label))
    return pairs


def naive_pairs(solutions: list[dict]) -> dict[str, float]:
    """Each pair of a right and a wrong solution of a problem, for each aggregation."""
    known = [row for row in solutions if -1 <= row["first_error"] < len(row["logits"])]
    by_aggregation = {}
    for how in AGGREGATIONS:
        won: dict[bool, list[float]] = {False: [], True: []}  # by whether they are equally long
        for a in known:
            for b in known:
                if a["id"] // 3 == b["id"] // 3 and a["first_error"] == -1 != b["first_error"]:
                    x, y = (aggregate([*map(sigmoid, r["logits"])], how) for r in (a, b))
                    same = len(a["logits"]) == len(b["logits"])
                    won[same].append(float(x > y) + 0.5 * (x == y))
        by_aggregation[how] = mean(won[True] + won[False]), mean(won[True])
    best = max(AGGREGATIONS, key=lambda how: np.nan_to_num(by_aggregation[how][0]))
    accuracies = {f"pair_accuracy/{how}": pair[0] for how, pair in by_aggregation.items()}
    whole, same = by_aggregation[best]
    return {**accuracies, "pair_accuracy": whole, "pair_accuracy_same_length": same}


def naive(solutions: list[dict], threshold: float) -> dict[str, float]:
    half, best = naive_processbench(solutions, 0.5), naive_processbench(solutions, threshold)
    scores = [row["logits"] for row in solutions]
    expected = {
        **naive_pairs(solutions),
        **naive_steps(supervised(solutions)),
        "error_f1_at_threshold": naive_steps(supervised(solutions), threshold)["error_f1"],
        "threshold": threshold,
        "solutions": len(solutions),
        "cut_before_error": sum(row["first_error"] >= len(row["logits"]) for row in solutions),
        "lowest_at_last": mean([float(z.index(min(z)) == len(z) - 1) for z in scores]),
        "first_error_match": half.pop("match"),
        **{f"processbench_{key}_at_0.5": value for key, value in half.items()},
        **{f"processbench_{key}": best[key] for key in half},
    }
    for index, name in enumerate(NAMES):
        part = [row for row in solutions if row["source"] == index]
        steps, bench = naive_steps(supervised(part)), naive_processbench(part, threshold)
        for key in ("steps", "accuracy", "error_f1", "auroc"):
            expected[f"source/{name}/{key}"] = steps[key]
        for key in half:
            expected[f"source/{name}/processbench_{key}"] = bench[key]
    for position, name in enumerate([*"12345678", "9_and_later"]):
        steps = naive_steps(supervised(solutions, position))
        for key in ("steps", "error_share", "accuracy", "balanced_accuracy", "auroc"):
            expected[f"position/{name}/{key}"] = steps[key]
    return expected


def close(expected: dict[str, float], abs: float = 2e-6):
    return pytest.approx(expected, abs=abs, nan_ok=True)


@settings(max_examples=40)
@given(seed=SEEDS, count=st.integers(0, 25), threshold=st.none() | st.floats(0.01, 0.99))
def test_every_metric_agrees_with_a_plain_loop(seed, count, threshold):
    solutions = random_solutions(seed, count)
    found = computed(solutions, threshold=threshold)
    assert threshold in (None, found["threshold"])
    assert found == close(naive(solutions, found["threshold"]))


@settings(max_examples=12)
@given(seed=SEEDS)
def test_a_resample_weighs_problems_like_copies_of_their_solutions(seed):
    solutions = random_solutions(seed)
    scores = gathered(solutions)
    draws = draw_problems([row["id"] // 3 for row in solutions], 3, seed)
    numbered = scores._replace(problems=scores.problems - scores.problems.min())
    figures = measure_part(numbered, 0.4, draws.counts)
    for number, times in enumerate(draws.counts):
        copies = [
            row | {"id": row["id"] + 300 * copy}  # copies are no attempts at each other's problem
            for row, problem in zip(solutions, draws.problems, strict=True)
            for copy in range(int(times[problem]))
        ]
        expected = naive(copies, 0.4)
        for name, values in figures.items():
            if not name.startswith("pair"):  # of the lowest step, while `naive` takes the best
                assert values[number] == pytest.approx(expected[name], nan_ok=True), name
        pairs = naive_pairs(copies)["pair_accuracy/min"]
        assert figures["pair_accuracy"][number] == pytest.approx(pairs, nan_ok=True)


def test_many_resamples_are_measured_in_parts_with_the_same_result(monkeypatch):
    scores = gathered(random_solutions(3))
    counts = np.random.default_rng(0).integers(0, 3, (40, 38)).astype(float)
    whole = measure_part(scores, 0.5, counts)
    monkeypatch.setattr("prm_lightning.modeling.metrics.AT_ONCE", 50)
    for name, values in measure_part(scores, 0.5, counts).items():
        np.testing.assert_allclose(values, whole[name])


@settings(max_examples=10)
@given(seed=SEEDS, count=st.integers(4, 25))
def test_no_threshold_has_a_better_smoothed_f1_than_the_fitted_one(seed, count):
    scores = drawn_solutions(count, seed, skill=1.0)
    best = fit_threshold(scores)
    windows = list(zip(*first_error_windows(scores)[:3], strict=True))
    ends = [logit(e) for low, high, _ in windows if low < high for e in (low, high) if 0 < e < 1]
    quarter, _, three = quantiles(ends, n=4, method="inclusive")
    width = 0.9 * min(stdev(ends), (three - quarter) / 1.34) * count**-0.2
    fitted = naive_smoothed_f1(windows, best, width)
    edges = sorted({0.0, 1.0, *map(sigmoid, ends)})
    others = [naive_smoothed_f1(windows, fmean(pair), width) for pair in pairwise(edges)]
    assert fitted == pytest.approx(max(others), abs=2e-3)


def first_errors(scores: StepScores, threshold: float) -> dict[str, float]:
    found = measure_first_errors(scores, threshold, undrawn(scores.problems))
    return {name: values[0] for name, values in found.items()}


def test_first_errors_by_hand():
    scores = to_step_scores(
        [
            scored([0.9, 0.8, 0.3, 0.1], 2),  # found for 0.3 < t <= 0.8
            scored([0.6, 0.4, 0.9, 0.9], 1),  # found for 0.4 < t <= 0.6
            scored([0.42, 0.44], 1),  # the step before is lower: never found
            scored([0.9, 0.7, 0.8], ALL_CORRECT),  # passed for t <= 0.7
            scored([0.45, 0.95], ALL_CORRECT),  # passed for t <= 0.45
        ]
    )
    assert first_errors(scores, 0.5) == pytest.approx(
        {"f1": 2 * (2 / 3) * 0.5 / (2 / 3 + 0.5), "wrong": 2 / 3, "right": 0.5, "match": 3 / 5}
    )
    # A score of exactly 0 is a score, and the threshold itself is no flag.
    scores = to_step_scores([scored([0.0, 0.9], 0), scored([0.5], ALL_CORRECT)])
    assert first_errors(scores, 0.5)["f1"] == 1.0


@pytest.mark.parametrize(("low", "high"), [(0.375, 0.625), (0.125, 0.25), (0.75, 0.9)])
def test_between_the_scores_of_an_error_and_of_what_is_right_the_middle_is_taken(low, high):
    scores = to_step_scores([scored([high, low], 1), scored([1.0, 1.0], ALL_CORRECT)])
    assert fit_threshold(scores) == pytest.approx((low + high) / 2)


def test_the_aggregation_that_orders_most_pairs_is_chosen_and_a_given_one_is_kept():
    scores = to_step_scores(
        [scored([0.9, 0.2, 0.9], ALL_CORRECT), scored([0.4, 0.4, 0.4], 2), scored([0.1], 0)]
    )
    found = measure(scores)
    assert (found["pair_accuracy/min"], found["pair_accuracy/last"]) == (0.5, 1.0)
    assert (found["pair_accuracy"], found["pair_accuracy_same_length"]) == (1.0, 1.0)
    given = measure(scores, aggregation="min")
    assert (given["pair_accuracy"], given["pair_accuracy_same_length"]) == (0.5, 0.0)


@settings(max_examples=12)
@given(
    seed=SEEDS,
    cuts=st.lists(st.integers(0, 12), max_size=4),
    pad=st.integers(0, 4),
    filler=st.sampled_from([math.nan, -9.0, math.inf]),
)
def test_neither_cutting_into_batches_nor_padding_changes_anything(seed, cuts, pad, filler):
    solutions = random_solutions(seed)
    edges = [0, *sorted(cuts), len(solutions)]  # equal edges make empty batches
    parts = [solutions[a:b] for a, b in pairwise(edges)]
    assert computed(*parts, pad=pad, filler=filler) == close(computed(solutions), abs=0)


@settings(max_examples=12)
@given(seed=SEEDS)
def test_labels_of_weight_zero_are_not_read_and_other_weights_count_alike(seed):
    solutions = random_solutions(seed)
    changed = []
    for row in solutions:
        pairs = list(zip(row["labels"], row["weights"], strict=True))
        labels = [label if weight else math.nan for label, weight in pairs]
        changed.append(row | {"labels": labels, "weights": [float(w > 0) for _, w in pairs]})
    assert computed(changed) == close(computed(solutions), abs=0)


def test_what_the_data_leave_undefined_is_nan_and_never_zero():
    assert computed([solution([30.0, 25.0, 20.0], [1.0, 1.0, 0.0], 2)])["auroc"] == 1  # defined
    found = computed([solution([2.0, 1.0], [1.0, 1.0], ALL_CORRECT)])
    undefined = ("auroc", "error_ap", "error_recall", "balanced_accuracy", "processbench_wrong")
    assert all(math.isnan(found[key]) for key in (*undefined, "processbench_f1"))
    assert (found["processbench_right"], found["threshold"], found["accuracy"]) == (1, 0.5, 1)


def test_no_data_gives_zero_counts_and_nan_under_the_same_keys():
    found = computed([])
    assert found.keys() == computed(random_solutions(0)).keys()
    names = ("steps", "solutions", "cut_before_error")
    counts = {key for key in found if key.rpartition("/")[2] in names}
    assert all(found[key] == 0 for key in counts)
    assert all(math.isnan(found[key]) for key in found.keys() - counts - {"threshold"})


def test_a_scorer_that_knows_the_majority_only():
    solutions = random_solutions(3, count=30)
    found = measure(majority_scores(gathered(solutions)), NAMES)
    majority = pytest.approx(computed(solutions)["majority_accuracy"])
    assert found["accuracy"] == majority
    assert found["majority_accuracy"] == majority
    assert (found["auroc"], found["balanced_accuracy"], found["processbench_f1"]) == (0.5, 0.5, 0)
    assert found["error_ap"] == pytest.approx(found["error_share"])
    assert found["ece"] == pytest.approx(0, abs=1e-9)


def test_gathering_resumes_after_compute_and_forgets_at_begin():
    first, second = random_solutions(1), random_solutions(2)
    steps = GatheredSteps()
    steps.update(*collate(first))
    steps.compute()
    steps.update(*collate(second))
    assert len(steps.compute().labels) == len(gathered(first, second).labels)
    steps.begin()
    steps.update(*collate(first))
    assert len(steps.compute().labels) == len(gathered(first).labels)


def test_ties_and_undefined_metrics_are_decided_by_auroc():
    worse, better = {"loss": 1.0, "auroc": 0.25}, {"loss": 1.0, "auroc": 0.75}
    assert rank_validation(better, "loss") > rank_validation(worse, "loss")
    undefined = [{"brier": math.nan, "auroc": auroc} for auroc in (0.25, 0.75)]
    with pytest.warns(UserWarning, match="brier is undefined .* chosen by val/auroc"):
        assert rank_validation(undefined[1], "brier") > rank_validation(undefined[0], "brier")


def test_a_nan_score_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"measure: 1 of 2 .* step 2 of solution 7"):
        computed([solution([1.0, math.nan], [1.0, 1.0], ALL_CORRECT)])


def test_logits_of_another_shape_are_refused():
    logits, batch = collate(random_solutions(0))
    with pytest.raises(ValueError, match=r"GatheredSteps: got .* \(12, 1\), expected"):
        GatheredSteps().update(logits[:, :1], batch)


CUTS = (0, 5, 12)  # how many of 12 solutions the first rank gets


def compute_on_rank(rank: int, solutions: list[dict], folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    results = []
    for cut in CUTS:
        metric = GatheredSteps().to(torch.bfloat16)  # as a trainer in half precision does
        metric.begin(np.arange(200) // 3)
        share = solutions[:cut] if rank == 0 else solutions[cut:]
        for part in [share[:3], [], share[3:]] if share else []:
            metric.update(*collate(part))
        scores = metric.compute()
        results.append([measure(scores, NAMES), scores.solutions.tolist()])
    (folder / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_uneven_or_no_data_equal_one_process(tmp_path):
    solutions = random_solutions(11)
    torch.multiprocessing.spawn(compute_on_rank, (solutions, tmp_path), nprocs=2)
    expected, ids = computed(solutions), [row["id"] for row in solutions for _ in row["logits"]]
    for rank in range(2):
        results = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(results) == len(CUTS)
        for found, seen in results:
            assert found == close(expected, abs=1e-9)
            assert seen == ids
