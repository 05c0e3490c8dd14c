"""Final-answer accuracy when a PRM picks among n samples, beside majority vote and oracle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import fmean

import numpy as np

from prm_lightning.evaluation.bootstrap import Estimate, draw_problems, show, summarise
from prm_lightning.evaluation.pools import Pool, Sample
from prm_lightning.evaluation.results import Entry, Report, Row, Table
from prm_lightning.evaluation.scored import Scored
from prm_lightning.evaluation.subsets import (
    expect_any,
    expect_best,
    expect_vote,
    make_subsets,
    sizes_up_to,
    takes_all,
)
from prm_lightning.modeling.aggregate import AGGREGATIONS, aggregate
from prm_lightning.modeling.scored_steps import Draws, Floats
from prm_lightning.text import normalise_problem
from prm_lightning.types import Aggregation

PASS, MAJORITY, ORACLE = "pass@1", "majority", "oracle"
BEST, WEIGHTED = "best", "weighted"
PoolScores = Sequence[float | None]  # one a sample; None where it has no steps

_subsets = lru_cache(maxsize=16)(make_subsets)  # most pools have as many samples


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


def choose_aggregation(pools: Sequence[Pool], scored: Sequence[Scored]) -> Aggregation:
    """The aggregation whose best of all samples is correct most often, on validation pools.

    Of equal ones the first of `AGGREGATIONS`.
    """

    def accuracy(how: Aggregation) -> float:
        scores = aggregate_pools(pools, scored, how)
        return fmean(
            expect_best(row, [s.correct for s in pool.samples], len(row))
            for pool, row in zip(pools, scores, strict=True)
        )

    return max(AGGREGATIONS, key=accuracy)


def report_best_of_n(
    entries: Sequence[Entry], pools: Sequence[Pool], resamples: int = 1000, seed: int = 0
) -> Report:
    """Accuracy of choosing among n = 1, 2, 4 … N samples, expected over subsets of the pools.

    Each n takes the problems that have at least n samples. ``best`` takes the sample with the
    highest score, ``weighted`` the answer with the highest sum of scores, each with every
    aggregation; ``pass@1``, ``majority`` and ``oracle`` need no model.

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
    return Report(rows, _tables(rows), _notes(rows, entries))


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
                "chosen": bool(entry and entry.choice and entry.choice.how == how),
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


def _vote(pools: Sequence[Pool], weights: Sequence[Floats], n: int, seed: int) -> Floats:
    """``(P, K)``: `expect_vote` of each pool under each of K weightings."""
    return np.array(
        [
            expect_vote(
                pool.groups,
                weights[i],
                np.array([sample.correct for sample in pool.samples]),
                _subsets(len(pool.samples), n, seed),
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
    return [
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
    if any(row.about["subsets"] == "drawn" for row in rows):
        notes.append("Votes were taken over 2000 drawn subsets where there are more than 20000.")
    sizes = {(row.about["source"], row.about["problems"]) for row in rows}
    if len(sizes) > len({source for source, _ in sizes}):
        notes.append(
            "Not every problem has as many samples: columns with fewer problems are not comparable "
            "with the others."
        )
    for entry in entries:
        if entry.choice:
            notes.append(f"* {entry.name}: {entry.choice.how}, {entry.choice.chosen_by}.")
    return notes
