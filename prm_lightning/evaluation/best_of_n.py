"""Final-answer accuracy when a PRM picks among n samples, next to majority vote and oracle.

Figures are expectations over all subsets of n of N samples, not of one draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from prm_lightning.evaluation.data import Pool, Sample
from prm_lightning.evaluation.results import Report, Row, Table, draw_problems, show, summarise
from prm_lightning.evaluation.scored import Entry, Scored
from prm_lightning.modeling.aggregate import AGGREGATIONS, aggregate
from prm_lightning.modeling.metrics import measure_pairs
from prm_lightning.modeling.scored_steps import Draws, Floats, Indices, number_in_order
from prm_lightning.text import normalise_problem
from prm_lightning.types import Aggregation

ALL_UP_TO = 20_000  # subsets of a problem that are gone through one by one
DRAWN = 2_000  # subsets that are drawn where there are more
TIE = 1e-9  # weights of two answers that differ by less, relatively, are equal


def pool_scores(pools: Sequence[Pool], scored: Sequence[Scored]) -> list[Floats]:
    """Of each pool of N samples, ``(A, N)``: their scores by each of `AGGREGATIONS`.

    NaN where a sample has no steps or the model cannot score it. `scored` are the pools'
    `solutions`, in order.
    """
    given = iter(scored)

    def score(sample: Sample) -> list[float]:
        scores = next(given).scores if sample.steps else ()
        return [aggregate(scores, how) if scores else np.nan for how in AGGREGATIONS]

    return [np.array(list(map(score, pool.samples))).T for pool in pools]


def pool_attempts(
    pools: Sequence[Pool], scored: Sequence[Scored]
) -> tuple[list[Sequence[float]], NDArray[np.bool_], Indices]:
    """Scores, outcome and problem of each sample that has scores, as `measure_pairs` takes them."""
    flags = [sample.correct for pool in pools for sample in pool.samples if sample.steps]
    problems = number_in_order([normalise_problem(item.solution.problem) for item in scored])
    has_scores = np.array([bool(item.scores) for item in scored], bool)
    rows: list[Sequence[float]] = [item.scores for item in scored if item.scores]
    return rows, np.array(flags, bool)[has_scores], problems[has_scores]


def report_best_of_n(
    entries: Sequence[Entry], pools: Sequence[Pool], resamples: int = 1000, seed: int = 0
) -> Report:
    """Accuracy of choosing among n = 1, 2, 4 … N samples, expected over subsets of the pools.

    Each n takes the problems that have at least n samples. ``best`` takes the sample with the
    highest score, ``weighted`` the answer with the highest sum of scores, each with every
    aggregation; ``pass@1``, ``majority`` and ``oracle`` need no model. The part ``pairs`` has the
    pair accuracy of every aggregation.

    Args:
        entries: none, or all with the pools' `solutions` in order.
        pools: at least one.
        resamples: of problems, for the intervals.
        seed: of the resamples, and of subsets where there are too many to take all.
    """
    rows: list[Row] = []
    tables: list[Table] = []
    for source in dict.fromkeys(pool.source for pool in pools):
        mine = [pool for pool in pools if pool.source == source]
        some = [
            replace(entry, scored=[s for s in entry.scored if s.solution.source == source])
            for entry in entries
        ]
        draws = draw_problems([normalise_problem(pool.problem) for pool in mine], resamples, seed)
        largest = max(len(pool.samples) for pool in mine)
        sizes = [*(2**k for k in range((largest - 1).bit_length())), largest]
        curves = [row for n in sizes for row in _measure_n(n, some, mine, draws, seed)]
        pairs = list(_pair_rows(some, mine, draws.counts))
        rows += [*curves, *pairs]
        tables += _tables(source, curves, pairs)
    return Report(rows, tables, _notes(rows, entries))


def _pair_rows(entries: Sequence[Entry], pools: Sequence[Pool], counts: Floats) -> Iterator[Row]:
    """Pair accuracy of every aggregation."""
    for entry in entries:
        attempts = pool_attempts(pools, entry.scored)
        for how in AGGREGATIONS:
            found = measure_pairs(*attempts, counts, how)
            metrics = {name: summarise(values) for name, values in found.items()}
            about = {"source": pools[0].source, "n": None, "method": "pairs", **_how(entry, how)}
            yield Row(entry.name, entry.kind, "pairs", metrics, about)


def _how(entry: Entry | None, how: Aggregation | None) -> dict[str, object]:
    """An aggregation, and whether it is the one that was chosen for the entry."""
    is_chosen = entry is not None and entry.choice is not None and entry.choice.aggregation == how
    return {"aggregation": how, "chosen": is_chosen}


def _measure_n(
    n: int, entries: Sequence[Entry], pools: Sequence[Pool], draws: Draws, seed: int
) -> Iterator[Row]:
    """The rows of one n, of pools that have at least n samples."""
    large = [i for i, pool in enumerate(pools) if len(pool.samples) >= n]
    draws = Draws(draws.counts, draws.problems[large])
    correct = [np.array([sample.correct for sample in pools[i].samples]) for i in large]
    all_taken = all(takes_all(len(c), n) for c in correct)

    def vote(weights: Sequence[Floats]) -> Floats:
        """``(P, K)``, of K ways to weigh the samples of each pool."""
        return np.array(
            [
                expect_vote(pools[i].groups, given, right, make_subsets(len(right), n, seed))
                for i, given, right in zip(large, weights, correct, strict=True)
            ]
        )

    plain = vote([np.ones((1, len(c))) for c in correct])[:, 0]
    majority = draws.mean(plain)

    def row(
        method: str, values: Floats, entry: Entry | None = None, how: Aggregation | None = None
    ) -> Row:
        mean = draws.mean(values)
        votes = method in ("majority", "weighted")
        return Row(
            entry.name if entry else method,
            entry.kind if entry else "baseline",
            f"n/{n}",
            {"accuracy": summarise(mean), "minus_majority": summarise(mean - majority)},
            {
                "source": pools[0].source,
                "n": n,
                "problems": len(large),
                "method": method,
                **_how(entry, how),
                "subsets": "drawn" if votes and not all_taken else "all",
            },
        )

    yield row("pass@1", np.array([c.mean() for c in correct]))
    yield row("majority", plain)
    yield row("oracle", np.array([expect_any(c.tolist(), n) for c in correct]))
    for entry in entries:
        by_pool = pool_scores(pools, entry.scored)
        given = [by_pool[i] for i in large]
        pairs = list(zip(given, correct, strict=True))
        best = np.array([[expect_best(row, right, n) for row in rows] for rows, right in pairs])
        weighted = vote([np.nan_to_num(rows) for rows in given])
        for method, values in (("best", best), ("weighted", weighted)):  # (P, A) each
            for column, how in zip(values.T, AGGREGATIONS, strict=True):
                yield row(method, column, entry, how)


def _tables(source: str, curves: Sequence[Row], pairs: Sequence[Row]) -> list[Table]:
    counts = {row.about["n"]: row.about["problems"] for row in curves}
    last = max(counts)
    lines: dict[tuple[str, str], dict[int, Row]] = {}
    for row in curves:
        lines.setdefault((row.model, _describe(row)), {})[row.about["n"]] = row
    accuracies, compared = [], []
    for names, line in lines.items():
        accuracies.append([*names, *(show(line[n].metrics["accuracy"].value) for n in counts)])
        if line[last].kind == "baseline" or line[last].about["chosen"]:
            accuracy, gain = line[last].metrics.values()
            sign = "" if gain.value < 0 else "+"
            compared.append([*names, str(accuracy), f"{sign}{gain}"])
    heads = [f"n = {n} ({count})" for n, count in counts.items()]
    title = f"{source}: accuracy of choosing among n samples (of how many problems)"
    interval = f"{source}: n = {last} [95 % interval]"
    tables = [
        Table(title, ["", "", *heads], accuracies),
        Table(interval, ["", "", "accuracy", "minus majority"], compared),
    ]
    if pairs:
        cells = [[row.model, _describe(row), *map(str, row.metrics.values())] for row in pairs]
        header = ["", "", "pair accuracy", "of equally many steps"]
        title = f"{source}: pairs of a right and a wrong sample in order [95 % interval]"
        tables.append(Table(title, header, cells))
    return tables


def _describe(row: Row) -> str:
    if row.about["aggregation"] is None:
        return ""
    text = f"{row.about['method']}, {row.about['aggregation']}"
    return text + " *" if row.about["chosen"] else text


def _notes(rows: Sequence[Row], entries: Sequence[Entry]) -> list[str]:
    notes = [
        "Figures are expectations over subsets of n samples. Ties are broken at random, in "
        "expectation. A sample without an answer has no vote; one without steps has no score, and "
        "counts only where no other sample of the subset has one.",
        "oracle is pass@n: whether any of the n is correct.",
    ]
    if any(row.about.get("subsets") == "drawn" for row in rows):
        notes.append("Votes were taken over 2000 drawn subsets where there are more than 20000.")
    sizes = {(row.about["source"], row.about["problems"]) for row in rows if row.about["n"]}
    if len(sizes) > len({source for source, _ in sizes}):
        notes.append(
            "Not every problem has as many samples: columns with fewer problems are not comparable "
            "with the others."
        )
    for entry in entries:
        if entry.choice:
            notes.append(f"* {entry.name}: {', '.join(entry.choice)}.")
    return notes


def takes_all(total: int, n: int) -> bool:
    """Whether `make_subsets` gives all subsets of n of `total` samples."""
    return comb(total, n) <= ALL_UP_TO


@lru_cache(maxsize=16)  # most pools have as many samples
def make_subsets(total: int, n: int, seed: int) -> Floats:
    """``(M, N)`` subsets of n of N samples, 1 where a sample belongs to a subset, else 0.

    All of them, or 2,000 drawn ones where there are over 20,000.
    """
    if takes_all(total, n):
        chosen = np.array(list(combinations(range(total), n)), np.int64)  # (M, n)
    else:
        rng = np.random.default_rng([seed, total, n])
        chosen = rng.permuted(np.tile(np.arange(total), (DRAWN, 1)), axis=1)[:, :n]
    members = np.zeros((len(chosen), total))
    np.put_along_axis(members, chosen, 1.0, axis=1)
    return members


def expect_any(correct: Sequence[bool], n: int) -> float:
    """pass@n: the probability that one of n samples is correct, over all subsets of n.

    ``1 - C(N - c, n) / C(N, n)`` with c correct ones of N >= n.

    Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    return 1 - comb(len(correct) - sum(correct), n) / comb(len(correct), n)


def expect_best(scores: Floats, correct: NDArray[np.bool_], n: int) -> float:
    """The probability that the best scored of n samples is correct, over all subsets of n.

    Among equal scores each sample is as likely to be taken. A sample without a score (NaN) is
    taken only where no sample of the subset has one.
    """
    ranked = np.nan_to_num(scores, nan=-np.inf)
    expected, left = 0.0, len(scores)  # `left` samples are no better than the group looked at
    for score in np.unique(ranked)[::-1]:
        group = correct[ranked == score]
        chance = comb(left, n) - comb(left - len(group), n)
        expected += chance / comb(len(scores), n) * float(group.mean())
        left -= len(group)
    return expected


def expect_vote(
    answers: Indices, weights: Floats, correct: NDArray[np.bool_], subsets: Floats
) -> Floats:
    """The probability that the answer with the greatest weight is correct, over subsets.

    Among answers of equal weight each is as likely to be taken. A sample without an answer has no
    vote; a subset without any vote gives no answer, which is not correct. An answer is correct to
    the extent that the samples which give it are.

    Args:
        answers: ``(N,)`` int64, equal where two samples give the same answer; -1 without one.
        weights: ``(K, N)`` >= 0, K ways of weighing the samples; ones are a plain majority.
        correct: ``(N,)`` bool.
        subsets: ``(M, N)``, as from `make_subsets`.

    Returns:
        ``(K,)`` in [0, 1].
    """
    groups = np.unique(answers[answers >= 0])
    if not len(groups):
        return np.zeros(len(weights))
    gives = (answers[:, None] == groups).astype(np.float64)  # (N, G)
    right = correct @ gives / gives.sum(axis=0)  # (G,)
    present = subsets @ gives > 0  # (M, G)
    expected = []
    for row in weights:
        votes = np.where(present, subsets @ (row[:, None] * gives), -1.0)  # (M, G)
        best = votes.max(axis=1, keepdims=True)
        ties = present & (votes >= best * (1 - TIE))
        taken = ties @ right / np.maximum(ties.sum(axis=1), 1)  # (M,)
        expected.append(taken.mean())
    return np.array(expected)
