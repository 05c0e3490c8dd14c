"""Verb `search`: problems, a generator and a process reward model make answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prm_lightning.answers import same_answer
from prm_lightning.command import run_verb
from prm_lightning.files import ResumableRows, digest, job_lock, require_our_rows, write_json
from prm_lightning.generation.prompts import check_sampling
from prm_lightning.searching.search import (
    METHODS,
    Method,
    SearchResult,
    SearchSettings,
    choose_best,
    choose_majority,
    choose_weighted,
)
from prm_lightning.sources.problems import Problem, read_problems
from prm_lightning.terminal import Bar, quieten_libraries
from prm_lightning.types import Aggregation, Dropped, Generator, Sampling, Unanswerable

# What imports torch is imported in functions, not even for annotations here: jsonargparse would
# import it to show the help.
_NOT_THE_RESULT = {"problems", "output", "limit", "overwrite", "device", "trust_remote_code"}

ANSWERED, NO_ANSWER = "answered", "no answer"  # the outcomes that accuracies are of
NOT_SCORED = "refused by the scorer"
NOT_WRITTEN = "refused by the generator"
RECORDED = ("text", "steps", "scores", "score", "answer", "tokens", "ended", "note")
WAYS = {
    "first": "first to finish",
    "majority": "majority",
    "best": "highest score",
    "weighted": "weighted majority",
    "oracle": "oracle (any correct)",
}


@dataclass(frozen=True)
class SearchOptions:
    """Search for the answers of problems: a generator writes, a process reward model chooses.

    Args:
        problems: questions with answers: a JSON Lines, JSON or Parquet file such as GSM8K's
            test.jsonl, or a Hub data set, of which the split train is read.
        generator: model that writes: Hub id, folder, adapter, .gguf file, or the URL of an
            OpenAI-compatible server, with #MODEL after it where that serves several.
        model: process reward model: whatever `score` takes.
        output: JSON Lines file for the results, or a folder to put results.jsonl into. A killed run
            resumes when it is started again.
        method: best_of_n, weighted_majority, beam, or dvts (diverse beams).
        n: solutions of each problem.
        width: continuations of each solution that beam and dvts continue; divides n.
        steps: most steps of a solution of beam and dvts.
        separator: ends a step of beam and dvts; by default a blank line.
        temperature: >= 0; 0 takes the likeliest token.
        top_p: in (0, 1], share of the probability that is sampled from.
        max_tokens: of a solution; with beam and dvts of a step.
        token_budget: most tokens that are generated for a problem; any number if not given.
        aggregate: how to make one score of a solution; the model's own way if not given.
        limit: at most this many problems.
        seed: of the samples.
        instruction: after every problem; empty for a model that was trained without. By default it
            asks for one step a paragraph and a boxed answer.
        endpoint: of a server: completions continues a solution exactly, but needs the tokenizer
            here and a server that takes token ids (vLLM, SGLang); chat leaves both to the server,
            which may drop the separator at the end of a step, so that beams end early. By default
            completions for beam and dvts, else chat.
        tokenizer: for completions: Hub id or folder; the server's name of the model if not given.
        device: cpu, cuda, cuda:1 and so on; the first GPU, if there is one, if not given.
        overwrite: replace the output.
        trust_remote_code: run Python code that comes with the generator or the model.
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
    trust_remote_code: bool = False

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
    def settings(self) -> SearchSettings:
        """What the functions of `search.METHODS` are given."""
        sampling = Sampling(1, self.max_tokens, self.temperature, self.top_p, seed=self.seed)
        bounds = self.n, self.width, self.steps
        return SearchSettings(*bounds, sampling, self.separator, self.token_budget, self.aggregate)


def main(args: Sequence[str]) -> None:
    """Search, and print what was found."""
    options: SearchOptions = run_verb("search", SearchOptions, args)
    check_sampling(options.settings.sampling)
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"search: --limit is {options.limit}, expected 1 or more.")
    if options.is_stepwise:
        options.settings.count_trees()
    results = options.results
    require_our_rows(results, overwrite=options.overwrite)
    found = list(read_problems(options.problems, options.limit))
    problems = [problem for problem in found if isinstance(problem, Problem)]
    left_out = Counter(row.reason for row in found if isinstance(row, Dropped))
    quieten_libraries()
    with job_lock(results, "search"):
        rows = ResumableRows(results, _job(options, problems))
        counted = count(_search_all(options, problems, rows), options.method)
        rows.finish(len(problems))
    summary = results.with_suffix(".summary.json")
    write_json(summary, {"job": rows.job, "left_out": left_out, **counted})
    print("\n".join(table(counted, options.method, left_out)))
    print(f"\nresults    {results}\nsummary    {summary}")


def _job(options: SearchOptions, problems: Sequence[Problem]) -> dict[str, Any]:
    """All that decides what the results are."""
    from prm_lightning.scoring.scorers import fingerprint

    job = {key: value for key, value in asdict(options).items() if key not in _NOT_THE_RESULT}
    content = digest(json.dumps([asdict(problem) for problem in problems]))[:32]
    return job | {"model_content": fingerprint(options.model), "problems_content": content}


def _search_all(
    options: SearchOptions, problems: Sequence[Problem], rows: ResumableRows
) -> Iterator[dict[str, Any]]:
    """The record of each problem; those that are not there yet are made and written."""
    done = refusals = 0
    record: dict[str, Any] = {}
    for record in rows.begin(overwrite=options.overwrite):
        yield record
        done += 1
        refusals += record["outcome"] == NOT_WRITTEN
    if done < len(problems):
        (scorer, generator), search = _load(options), METHODS[options.method]
        with Bar("searching", len(problems)) as bar:
            for number, problem in enumerate(problems[done:], done):
                bar.show(number)
                try:
                    found = search(problem.question, generator, scorer, options.settings)
                    record = record_of(problem, found)
                except Unanswerable as error:
                    record = refused(problem, str(error))
                    refusals += 1
                rows.append(record)
                yield record
    if refusals and refusals == len(problems):
        rows.partial.unlink()  # or the corrected command would be another job than this one
        raise ValueError(
            f"search: the generator refused all {len(problems)} problems, the last one since "
            f"{record['message']}"
        )


def _load(options: SearchOptions) -> tuple[Any, Generator]:
    """The scorer, one on top of it that reads each step once if that helps, and the generator."""
    from prm_lightning.generation.local import load_generator
    from prm_lightning.scoring.incremental import IncrementalScorer
    from prm_lightning.scoring.scorers import load_scorer

    trusted = options.trust_remote_code
    scorer: Any = load_scorer(options.model, options.device, trust_remote_code=trusted)
    backbone = getattr(scorer, "backbone", None)  # none of a server
    if options.is_stepwise and backbone is not None and backbone.config.attention == "sdpa":
        scorer = IncrementalScorer(scorer)
    return scorer, load_generator(
        options.generator,
        options.instruction,
        endpoint=options.endpoint or ("completions" if options.is_stepwise else "chat"),
        tokenizer=options.tokenizer,
        device=options.device,
        trust_remote_code=trusted,
    )


def record_of(problem: Problem, result: SearchResult) -> dict[str, Any]:
    """A line of the results.

    ``ways`` says of ``first``, ``majority``, ``best`` and ``weighted`` whether the candidate that
    each takes is correct; ``oracle`` whether any final one is.
    """
    candidates, finals = result.candidates, result.finals
    answers = {candidate.answer for candidate in candidates}
    right = {answer for answer in answers if same_answer(problem.answer, answer)}
    chosen = {
        "first": candidates.index(finals[0]) if finals else None,
        "majority": choose_majority(candidates),
        "best": choose_best(candidates),
        "weighted": choose_weighted(candidates),
    }
    note = next((c.note for c in finals if c.note), "")
    outcome = NO_ANSWER if result.answer is None else ANSWERED
    return _head(problem) | {
        "outcome": NOT_SCORED if result.chosen is None and note else outcome,
        "message": note,
        "answer": result.answer,
        "chosen": result.chosen,
        "correct": result.answer in right,
        "ways": {w: i is not None and candidates[i].answer in right for w, i in chosen.items()},
        "oracle": any(candidate.answer in right for candidate in finals),
        "tokens": result.tokens,
        "candidates": [
            {name: getattr(candidate, name) for name in RECORDED}
            | {"correct": candidate.answer in right}
            for candidate in candidates
        ],
    }


def refused(problem: Problem, message: str) -> dict[str, Any]:
    """The line of a problem that the generator refuses: nulls, and what it said."""
    said: dict[str, Any] = dict.fromkeys(("answer", "chosen", "correct", "ways", "oracle"))
    said |= {"outcome": NOT_WRITTEN, "message": message, "tokens": 0, "candidates": []}
    return _head(problem) | said


def _head(problem: Problem) -> dict[str, Any]:
    return {"id": problem.id, "question": problem.question, "reference": problem.answer}


def count(records: Iterable[Mapping[str, Any]], method: Method) -> dict[str, Any]:
    """What records amount to, as plain JSON; accuracies are null where no problem counts.

    A failure counts as an outcome and in no accuracy.
    """
    outcomes: Counter[str] = Counter()
    correct = Counter(dict.fromkeys(WAYS, 0))
    tokens = 0
    for record in records:
        outcomes[record["outcome"]] += 1
        tokens += record["tokens"]
        if record["outcome"] in (ANSWERED, NO_ANSWER):
            correct.update({way for way, right in record["ways"].items() if right})
            correct["oracle"] += record["oracle"]
    counted = outcomes[ANSWERED] + outcomes[NO_ANSWER]
    return {
        "problems": outcomes.total(),
        "outcomes": dict(outcomes),
        "counted": counted,
        "chosen_by": "weighted" if method == "weighted_majority" else "best",
        "correct": dict(correct),
        "accuracy": {way: n / counted if counted else None for way, n in correct.items()},
        "tokens": tokens,
    }


def table(counted: Mapping[str, Any], method: Method, left_out: Mapping[str, int]) -> list[str]:
    """What `count` found, in lines for a person; `left_out` are rows that are no problems."""
    problems, tokens = counted["problems"], counted["tokens"]
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in counted["outcomes"].items())
    lines = [f"problems   {problems}: {outcomes}"]
    if left_out:
        lines.append("left out   " + ", ".join(f"{n} {why}" for why, n in left_out.items()))
    lines += [f"tokens     {tokens}, {tokens / max(1, problems):.0f} a problem", ""]
    for way, name in WAYS.items():
        if way == "first" and method in ("best_of_n", "weighted_majority"):
            name = "first sample (pass@1)"
        share = counted["accuracy"][way]
        shown = "  –  " if share is None else f"{share:.3f}"
        mark = "*" if way == counted["chosen_by"] else " "
        right = f"{counted['correct'][way]} of {counted['counted']}"
        lines.append(f"{name:24} {mark} {shown}   {right}")
    return [*lines, "* is the answer of this search"]
