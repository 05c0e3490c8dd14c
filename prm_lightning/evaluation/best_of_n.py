"""Final-answer accuracy when a PRM picks among n samples, next to majority vote and oracle.

Figures are expectations over all subsets of n of N samples, not of one draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from prm_lightning.evaluation.data import Pool, Sample
from prm_lightning.evaluation.results import (
    Entry,
    Estimate,
    Report,
    Row,
    Table,
    draw_problems,
    show,
    summarise,
)
from prm_lightning.evaluation.scored import Scored
from prm_lightning.modeling.aggregate import AGGREGATIONS, aggregate
from prm_lightning.modeling.metrics import measure_pairs
from prm_lightning.modeling.scored_steps import Draws, Floats, Indices, number_in_order
from prm_lightning.text import normalise_problem
from prm_lightning.types import Aggregation

ALL_UP_TO = 20_000  # subsets of a problem that are gone through one by one
DRAWN = 2_000  # subsets that are drawn where there are more
TIE = 1e-9  # weights of two answers that differ by less, relatively, are equal
PASS, MAJORITY, ORACLE = "pass@1", "majority", "oracle"
BEST, WEIGHTED, PAIRS = "best", "weighted", "pairs"
PoolScores = Sequence[float | None]  # one per sample; None where it has no steps


def aggregate_pools(
    pools: Sequence[Pool], scored: Sequence[Scored], how: Aggregation
) -> list[list[float | None]]:
    """One score of every sample; None where the sample has no steps or the model cannot score it.

    Args:
        pools: P problems.
        scored: their `solutions`, pool by pool.
        how: to aggregate the scores of a solution's steps.
    """
    given = iter(scored)

    def score(sample: Sample) -> float | None:
        scores = next(given).scores if sample.steps else ()
        return aggregate(scores, how) if scores else None

    return [[score(sample) for sample in pool.samples] for pool in pools]


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
    scores = {
        entry.name: {how: aggregate_pools(pools, entry.scored, how) for how in AGGREGATIONS}
        for entry in entries
    }
    rows: list[Row] = []
    for source in dict.fromkeys(pool.source for pool in pools):
        inside = [i for i, pool in enumerate(pools) if pool.source == source]
        keys = [normalise_problem(pools[i].problem) for i in inside]
        drawn = draw_problems(keys, resamples, seed)
        for n in sizes_up_to(max(len(pools[i].samples) for i in inside)):
            large = [i for i in inside if len(pools[i].samples) >= n]
            at_least_n = np.array([len(pools[i].samples) >= n for i in inside])
            rows += _measure_n(
                n,
                entries,
                {
                    name: {how: [by_pool[i] for i in large] for how, by_pool in of_entry.items()}
                    for name, of_entry in scores.items()
                },
                [pools[i] for i in large],
                Draws(drawn.counts, drawn.problems[at_least_n]),
                seed,
            )
        rows += _pair_rows(source, entries, pools, drawn.counts)
    return Report(rows, _tables(rows), _notes(rows, entries))


def _pair_rows(
    source: str, entries: Sequence[Entry], pools: Sequence[Pool], counts: Floats
) -> Iterator[Row]:
    """Pair accuracy of every aggregation on the pools of one source."""
    mine = [pool for pool in pools if pool.source == source]
    for entry in entries:
        scored = [item for item in entry.scored if item.solution.source == source]
        scores, right, problems = pool_attempts(mine, scored)
        for how in AGGREGATIONS:
            pairs = measure_pairs(scores, right, problems, counts, how)
            yield Row(
                entry.name,
                entry.kind,
                "pairs",
                {name: summarise(values) for name, values in pairs.items()},
                {
                    "source": source,
                    "n": None,
                    "method": PAIRS,
                    "aggregation": how,
                    "chosen": _is(entry, how),
                },
            )


def _measure_n(
    n: int,
    entries: Sequence[Entry],
    scores: Mapping[str, Mapping[Aggregation, Sequence[PoolScores]]],
    pools: Sequence[Pool],
    draws: Draws,
    seed: int,
) -> Iterator[Row]:
    """The rows of one n, of pools that have at least n samples."""
    correct = [np.array([sample.correct for sample in pool.samples]) for pool in pools]
    votes = "all" if all(takes_all(len(pool.samples), n) for pool in pools) else "drawn"
    plain = _vote(pools, [np.ones((1, len(c))) for c in correct], n, seed)[:, 0]
    majority = draws.mean(plain)

    def row(
        name: str, entry: Entry | None, how: Aggregation | None, values: Floats, over: str
    ) -> Row:
        mean = draws.mean(values)
        return Row(
            entry.name if entry else name,
            entry.kind if entry else "baseline",
            f"n/{n}",
            {"accuracy": summarise(mean), "minus_majority": summarise(mean - majority)},
            {
                "source": pools[0].source,
                "n": n,
                "problems": len(pools),
                "method": name,
                "aggregation": how,
                "chosen": entry is not None and _is(entry, how),
                "subsets": over,
            },
        )

    yield row(PASS, None, None, np.array([c.mean() for c in correct]), "all")
    yield row(MAJORITY, None, None, plain, votes)
    yield row(ORACLE, None, None, np.array([expect_any(list(c), n) for c in correct]), "all")
    for entry in entries:
        of_entry = scores[entry.name]
        for how in AGGREGATIONS:
            pairs = zip(of_entry[how], correct, strict=True)
            best = [expect_best(given, list(right), n) for given, right in pairs]
            yield row(BEST, entry, how, np.array(best), "all")
        weights = [
            np.array([[score or 0.0 for score in of_entry[how][i]] for how in AGGREGATIONS])
            for i in range(len(pools))
        ]
        voted = _vote(pools, weights, n, seed)  # (P, aggregations)
        for column, how in enumerate(AGGREGATIONS):
            yield row(WEIGHTED, entry, how, voted[:, column], votes)


def _is(entry: Entry, how: Aggregation | None) -> bool:
    """Whether this aggregation was chosen for the entry."""
    return entry.choice is not None and entry.choice.how == how


def _vote(pools: Sequence[Pool], weights: Sequence[Floats], n: int, seed: int) -> Floats:
    """``(P, K)``: `expect_vote` of each pool under each of K weightings."""
    return np.array(
        [
            expect_vote(
                pool.groups,
                weights[i],
                np.array([sample.correct for sample in pool.samples]),
                make_subsets(len(pool.samples), n, seed),
            )
            for i, pool in enumerate(pools)
        ]
    )


def _tables(rows: Sequence[Row]) -> list[Table]:
    sources = dict.fromkeys(row.about["source"] for row in rows)
    return [
        table
        for source in sources
        for table in _tables_of_source(source, [r for r in rows if r.about["source"] == source])
    ]


def _tables_of_source(source: str, rows: Sequence[Row]) -> list[Table]:
    pairs = [row for row in rows if row.about["method"] == PAIRS]
    rows = [row for row in rows if row.about["method"] != PAIRS]
    counts = {row.about["n"]: row.about["problems"] for row in rows}
    last = max(counts)
    lines: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        lines.setdefault((row.model, _describe(row)), {})[row.about["n"]] = row
    curves = [
        [*names, *(show(line[n].metrics["accuracy"].value) for n in counts)]
        for names, line in lines.items()
    ]
    compared = [
        [
            *names,
            str(line[last].metrics["accuracy"]),
            _signed(line[last].metrics["minus_majority"]),
        ]
        for names, line in lines.items()
        if line[last].kind == "baseline" or line[last].about["chosen"]
    ]
    heads = [f"n = {n} ({count})" for n, count in counts.items()]
    tables = [
        Table(
            f"{source}: accuracy of choosing among n samples (of how many problems)",
            ["", "", *heads],
            curves,
        ),
        Table(
            f"{source}: n = {last} [95 % interval]",
            ["", "", "accuracy", "minus majority"],
            compared,
        ),
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


def _signed(estimate: Estimate) -> str:
    return str(estimate) if estimate.value < 0 else "+" + str(estimate)


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
            notes.append(f"* {entry.name}: {entry.choice.how}, {entry.choice.chosen_by}.")
    return notes


def takes_all(total: int, n: int) -> bool:
    """Whether `make_subsets` gives all subsets of n of `total` samples."""
    return comb(total, n) <= ALL_UP_TO


@lru_cache(maxsize=16)  # most pools have as many samples
def make_subsets(total: int, n: int, seed: int) -> Floats:
    """All subsets of n of `total` samples, or 2,000 drawn ones where there are over 20,000.

    Args:
        total: N >= 1.
        n: in 1 … N.
        seed: of those drawn.

    Returns:
        ``(M, N)`` float64, 1 where a sample belongs to a subset, else 0.
    """
    if takes_all(total, n):
        chosen = np.array(list(combinations(range(total), n)), np.int64)  # (M, n)
    else:
        rng = np.random.default_rng([seed, total, n])
        chosen = rng.permuted(np.tile(np.arange(total), (DRAWN, 1)), axis=1)[:, :n]
    members = np.zeros((len(chosen), total))
    np.put_along_axis(members, chosen, 1.0, axis=1)
    return members


def sizes_up_to(total: int) -> list[int]:
    """1, 2, 4 … and `total` itself."""
    powers = [2**k for k in range(total.bit_length()) if 2**k <= total]
    return powers if not powers or powers[-1] == total else [*powers, total]


def expect_any(correct: Sequence[bool], n: int) -> float:
    """pass@n: the probability that one of n samples is correct, over all subsets of n.

    ``1 - C(N - c, n) / C(N, n)`` with c correct ones of N >= n.

    Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    return 1 - comb(len(correct) - sum(correct), n) / comb(len(correct), n)


def expect_best(scores: Sequence[float | None], correct: Sequence[bool], n: int) -> float:
    """The probability that the best scored of n samples is correct, over all subsets of n.

    Among equal scores each sample is as likely to be taken. A sample without a score is taken only
    where no sample of the subset has one.

    Args:
        scores: of N >= n samples, higher is better; None where there is none.
        correct: of each.
        n: >= 1.
    """
    order: dict[float, list[bool]] = {}
    for score, right in zip(scores, correct, strict=True):
        order.setdefault(-np.inf if score is None else score, []).append(right)
    expected, left = 0.0, len(scores)  # `left` samples are no better than the group looked at
    for _, group in sorted(order.items(), reverse=True):
        chance = comb(left, n) - comb(left - len(group), n)
        expected += chance / comb(len(scores), n) * sum(group) / len(group)
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
