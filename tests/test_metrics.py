"""Step metrics against plain loops, worked examples, and the ways a batch may be cut."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean, quantiles, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prm_lightning.modeling.metrics import (
    StepMetrics,
    first_error_windows,
    fit_threshold,
    majority_baseline,
    measure,
    processbench_at,
)
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


def drawn_solutions(count: int, seed: int, skill: float) -> tuple[Tensor, Tensor, Tensor]:
    """Solutions of 2 to 7 steps, about half of them wrong; the wrong step's logit is lower."""
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 8, (count,), generator=rng)
    errors = (torch.rand(count, generator=rng) * counts).long()
    wrong = torch.arange(count) % 2 == 0
    logits = torch.randn(count, 7, generator=rng, dtype=torch.float64) + skill
    logits[wrong, errors[wrong]] -= 2 * skill
    return logits.sigmoid(), counts, torch.where(wrong, errors, ALL_CORRECT)


def collate(solutions: list[dict], pad: int = 0, filler: float = 0.0) -> tuple:
    """Logits and batch; `filler` stands in every padded place that may hold anything."""
    width = max((len(row["logits"]) for row in solutions), default=0) + pad

    def padded(key: str, fill: float) -> torch.Tensor:
        rows = [row[key] + [fill] * (width - len(row[key])) for row in solutions]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), width)

    def column(key: str) -> torch.Tensor:
        return torch.tensor([row[key] for row in solutions], dtype=torch.int64)

    counts = torch.tensor([len(row["logits"]) for row in solutions], dtype=torch.int64)
    exists = torch.arange(width) < counts[:, None]
    tokens = torch.zeros(1, 1, dtype=torch.int64)
    batch = StepBatch(
        input_ids=tokens,
        position_ids=tokens,
        subtree_end=tokens + 1,
        step_nodes=torch.where(exists, 0, -1),
        labels=padded("labels", filler),
        weights=padded("weights", 0.0),
        step_counts=counts,
        first_errors=column("first_error"),
        sources=column("source"),
        solution_ids=column("id"),
        total_weight=torch.tensor(1.0),
        total_solutions=torch.tensor(1.0),
    )
    return padded("logits", filler), batch


def computed(*batches: list[dict], threshold: float | None = None, **collation: float) -> dict:
    metric = StepMetrics(NAMES, threshold)
    for solutions in batches:
        metric.update(*collate(solutions, **collation))
    return {key: value.item() for key, value in metric.compute().items()}


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


def naive(solutions: list[dict], threshold: float) -> dict[str, float]:
    half, best = naive_processbench(solutions, 0.5), naive_processbench(solutions, threshold)
    scores = [row["logits"] for row in solutions]
    expected = {
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


@settings(max_examples=30)
@given(seed=SEEDS, count=st.integers(0, 25))
def test_every_metric_agrees_with_a_plain_loop(seed, count):
    solutions = random_solutions(seed, count)
    found = computed(solutions)
    assert found == close(naive(solutions, found["threshold"]))


@settings(max_examples=12)
@given(seed=SEEDS, threshold=st.floats(0.01, 0.99))
def test_a_given_threshold_is_used_instead_of_a_fitted_one(seed, threshold):
    solutions = random_solutions(seed)
    assert computed(solutions, threshold=threshold) == close(naive(solutions, threshold))


@settings(max_examples=20)
@given(seed=SEEDS, count=st.integers(4, 25))
def test_no_threshold_has_a_better_smoothed_f1_than_the_fitted_one(seed, count):
    probabilities, counts, first_errors = drawn_solutions(count, seed, skill=1.0)
    best = fit_threshold(probabilities, counts, first_errors)
    assert best == processbench_at(probabilities, counts, first_errors, best.threshold)
    windows = list(
        zip(
            *map(Tensor.tolist, first_error_windows(probabilities, counts, first_errors)),
            strict=True,
        )
    )
    ends = [logit(e) for low, high, _ in windows if low < high for e in (low, high) if 0 < e < 1]
    quarter, _, three = quantiles(ends, n=4, method="inclusive")
    width = 0.9 * min(stdev(ends), (three - quarter) / 1.34) * count**-0.2
    fitted = naive_smoothed_f1(windows, best.threshold, width)
    edges = sorted({0.0, 1.0, *map(sigmoid, ends)})
    others = [naive_smoothed_f1(windows, fmean(pair), width) for pair in pairwise(edges)]
    assert fitted == pytest.approx(max(others), abs=2e-3)


def test_a_fitted_threshold_holds_on_other_data_better_than_the_highest_step():
    unseen = drawn_solutions(2000, seed=0, skill=1.0)
    gains = []
    for seed in range(1, 21):
        few = drawn_solutions(60, seed, skill=1.0)
        low, high, _ = first_error_windows(*few)
        steps = [t for t in torch.cat([low, high]).tolist() if 0 < t < 1]
        highest = max(steps, key=lambda t: processbench_at(*few, t).f1)
        fitted = fit_threshold(*few).threshold
        gains.append(processbench_at(*unseen, fitted).f1 - processbench_at(*unseen, highest).f1)
    assert fmean(gains) > 0.002


def test_processbench_by_hand():
    probabilities = torch.tensor(
        [
            [0.9, 0.8, 0.3, 0.1],  # wrong at 2: found for 0.3 < t <= 0.8
            [0.6, 0.4, 0.9, 0.9],  # wrong at 1: found for 0.4 < t <= 0.6
            [0.42, 0.44, 0.5, 0.5],  # wrong at 1, but the step before is lower: never
            [0.9, 0.7, 0.8, 0.0],  # right, three steps: kept for t <= 0.7
            [0.45, 0.95, 0.0, 0.0],  # right, two steps: kept for t <= 0.45
        ]
    )
    counts = torch.tensor([4, 4, 2, 3, 2])
    first_errors = torch.tensor([2, 1, 1, ALL_CORRECT, ALL_CORRECT])
    half = processbench_at(probabilities, counts, first_errors, 0.5)
    assert half == pytest.approx((0.5, 2 * (2 / 3) * 0.5 / (2 / 3 + 0.5), 2 / 3, 0.5))


@pytest.mark.parametrize(("low", "high"), [(0.375, 0.625), (0.125, 0.25), (0.75, 0.9)])
def test_between_the_scores_of_an_error_and_of_what_is_right_the_middle_is_taken(low, high):
    probabilities = torch.tensor([[high, low], [1.0, 1.0]], dtype=torch.float64)
    counts, first_errors = torch.tensor([2, 2]), torch.tensor([1, ALL_CORRECT])
    best = fit_threshold(probabilities, counts, first_errors)
    assert best == pytest.approx(((low + high) / 2, 1.0, 1.0, 1.0))


@settings(max_examples=12)
@given(seed=SEEDS, cuts=st.lists(st.integers(0, 12), max_size=4))
def test_cutting_the_data_into_batches_changes_nothing(seed, cuts):
    solutions = random_solutions(seed)
    edges = [0, *sorted(cuts), len(solutions)]  # equal edges make empty batches
    parts = [solutions[a:b] for a, b in pairwise(edges)]
    assert computed(*parts) == close(computed(solutions), abs=0)


@settings(max_examples=12)
@given(seed=SEEDS, pad=st.integers(0, 4), filler=st.sampled_from([math.nan, -9.0, math.inf]))
def test_what_stands_in_padded_places_changes_nothing(seed, pad, filler):
    solutions = random_solutions(seed)
    assert computed(solutions, pad=pad, filler=filler) == close(computed(solutions), abs=0)


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
    found = computed([solution([2.0, 1.0], [1.0, 1.0], ALL_CORRECT)])
    undefined = ("auroc", "error_ap", "error_recall", "balanced_accuracy", "processbench_f1")
    assert all(math.isnan(found[key]) for key in undefined)
    assert math.isnan(found["processbench_wrong"])
    assert (found["processbench_right"], found["threshold"], found["accuracy"]) == (1, 0.5, 1)


def test_no_data_gives_zero_counts_and_nan_under_the_same_keys():
    found = computed([])
    assert found.keys() == computed(random_solutions(0)).keys()
    names = ("steps", "solutions", "cut_before_error")
    counts = {key for key in found if key.rpartition("/")[2] in names}
    assert all(found[key] == 0 for key in counts)
    assert all(math.isnan(found[key]) for key in found.keys() - counts - {"threshold"})


def test_a_wrong_solution_cut_before_its_error_is_counted_and_left_out():
    kept = [solution([1.0, -1.0], [1.0, 0.0], 1), solution([1.0], [1.0], ALL_CORRECT)]
    cut = solution([-1.0, -1.0], [1.0, 1.0], 2)
    without, found = computed(kept), computed([*kept, cut])
    assert (without["cut_before_error"], found["cut_before_error"]) == (0, 1)
    for key in ("processbench_f1", "processbench_wrong", "processbench_right", "first_error_match"):
        assert found[key] == without[key] == 1


def test_confident_logits_keep_their_order():
    found = computed([solution([30.0, 25.0, 20.0], [1.0, 1.0, 0.0], 2)])
    assert found["auroc"] == 1


def test_a_scorer_that_knows_the_majority_only():
    solutions = random_solutions(3, count=30)
    metric = StepMetrics(NAMES)
    metric.update(*collate(solutions))
    found = {key: value.item() for key, value in majority_baseline(metric.scores()).items()}
    majority = pytest.approx(computed(solutions)["majority_accuracy"])
    assert found["accuracy"] == majority
    assert found["majority_accuracy"] == majority
    assert (found["auroc"], found["balanced_accuracy"], found["processbench_f1"]) == (0.5, 0.5, 0)
    assert found["error_ap"] == pytest.approx(found["error_share"])
    assert found["ece"] == pytest.approx(0, abs=1e-9)


def test_scores_are_what_was_seen():
    solutions = random_solutions(5)
    metric = StepMetrics(NAMES)
    metric.update(*collate(solutions[:4]))
    metric.update(*collate(solutions[4:]))
    scores = metric.scores()
    steps = [(row, i) for row in solutions for i in range(len(row["logits"]))]
    assert scores.positions.tolist() == [i for _, i in steps]
    assert scores.solutions.tolist() == [row["id"] for row, _ in steps]
    assert scores.probabilities.tolist() == pytest.approx(
        [sigmoid(row["logits"][i]) for row, i in steps]
    )
    assert measure(scores, NAMES).keys() == metric.compute().keys()


def test_a_metric_goes_on_after_compute():
    first, second = random_solutions(1), random_solutions(2)
    metric = StepMetrics(NAMES)
    metric.update(*collate(first))
    metric.compute()
    metric.update(*collate(second))
    both = {key: value.item() for key, value in metric.compute().items()}
    assert both == close(computed(first, second), abs=0)


def test_a_nan_score_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"measure: 1 of 2 .* step 2 of solution 7"):
        computed([solution([1.0, math.nan], [1.0, 1.0], ALL_CORRECT)])


def test_logits_of_another_shape_are_refused():
    logits, batch = collate(random_solutions(0))
    with pytest.raises(ValueError, match=r"StepMetrics: got .* \(12, 1\), expected"):
        StepMetrics().update(logits[:, :1], batch)


CUTS = (0, 5, 12)  # how many of 12 solutions the first rank gets


def compute_on_rank(rank: int, solutions: list[dict], folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    results = []
    for cut in CUTS:
        metric = StepMetrics(NAMES).to(torch.bfloat16)  # as a trainer in half precision does
        share = solutions[:cut] if rank == 0 else solutions[cut:]
        for part in [share[:3], [], share[3:]] if share else []:
            metric.update(*collate(part))
        found = {key: value.item() for key, value in metric.compute().items()}
        results.append([found, metric.scores().solutions.tolist()])
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
