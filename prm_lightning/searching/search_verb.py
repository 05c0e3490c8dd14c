"""Verb `search`: problems, a generator and a process reward model make answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prm_lightning.command import run_verb
from prm_lightning.types import Aggregation, Sampling

# Nothing heavy is imported here: it would slow the help down.
Method = Literal["best_of_n", "weighted_majority", "beam", "dvts"]


@dataclass(frozen=True)
class Options:
    """Search for the answers of problems: a generator writes, a process reward model chooses.

    Args:
        problems: questions with answers: a JSON Lines, JSON or Parquet file such as GSM8K's
            test.jsonl, or a Hub data set, of which the split train is read.
        generator: model that writes: Hub id, folder, adapter, .gguf file, or the URL of an
            OpenAI-compatible server, with #MODEL behind it where that serves several.
        model: process reward model: whatever `score` takes.
        output: JSON Lines file for the results, or a folder to put results.jsonl into. A killed run
            goes on where it stopped when it is started again.
        method: best_of_n, weighted_majority, beam, or dvts (diverse beams).
        n: solutions of each problem.
        width: continuations of each solution that beam and dvts go on with; divides n.
        steps: most steps of a solution of beam and dvts.
        separator: ends a step of beam and dvts; by default a blank line.
        temperature: >= 0; 0 takes the likeliest token.
        top_p: in (0, 1], share of the probability that is sampled from.
        max_tokens: of a solution; with beam and dvts of a step.
        token_budget: most tokens that are generated for a problem; any number if not given.
        aggregate: how to make one score of a solution; the model's own way if not given.
        limit: at most this many problems.
        seed: of the samples.
        instruction: behind every problem; empty for a model that was trained without. By default it
            asks for one step a paragraph and a boxed answer.
        endpoint: of a server: completions goes on with a solution exactly, but needs the tokenizer
            here and a server that takes token ids (vLLM, SGLang); chat leaves both to the server,
            which may drop the separator at the end of a step, so that beams end early. By default
            completions for beam and dvts, else chat.
        tokenizer: for completions: Hub id or folder; the server's name of the model if not given.
        device: cpu, cuda, cuda:1 and so on; the first GPU, if there is one, if not given.
        overwrite: replace the output.
    """

    problems: str
    generator: str
    model: str
    output: str
    method: Method = "best_of_n"
    n: int = 16
    width: int = 4
    steps: int = 40
    separator: str = "\n\n"
    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 512
    token_budget: int | None = None
    aggregate: Aggregation | None = None
    limit: int | None = None
    seed: int = 0
    instruction: str | None = None
    endpoint: Literal["chat", "completions"] | None = None
    tokenizer: str | None = None
    device: str | None = None
    overwrite: bool = False

    @property
    def results(self) -> Path:
        """The file of results."""
        path = Path(self.output)
        return path if path.suffix == ".jsonl" else path / "results.jsonl"

    @property
    def is_stepwise(self) -> bool:
        """Whether the method writes step by step."""
        return self.method in ("beam", "dvts")

    @property
    def sampling(self) -> Sampling:
        """How the generator writes."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )


def main(args: Sequence[str]) -> None:
    """Search, and print what was found."""
    options: Options = run_verb("search", Options, args)
    from prm_lightning.searching.search_run import run

    print("\n".join(run(options)))
