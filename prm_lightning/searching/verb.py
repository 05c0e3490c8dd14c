"""Verb `search`: problems, a generator and a process reward model make answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urldefrag

from prm_lightning.command import run_verb
from prm_lightning.files import ResumableRows, digest, job_lock, require_replaceable, write_json
from prm_lightning.generation.prompts import INSTRUCTION, check_sampling
from prm_lightning.searching.results import NOT_WRITTEN, Figures, record_of, refused
from prm_lightning.searching.search import METHODS, Method, SearchSettings, require_division
from prm_lightning.sources.problems import Problem, read_problems
from prm_lightning.terminal import Bar, quieten_libraries
from prm_lightning.types import Aggregation, Dropped, Generator, Sampling, Unanswerable

# What imports torch is imported in functions, not even for annotations here: jsonargparse would
# import it to show the help.
_NOT_THE_RESULT = {"problems", "output", "limit", "overwrite", "device"}


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
    def settings(self) -> SearchSettings:
        """What `search` functions are given."""
        return SearchSettings(
            n=self.n,
            width=self.width,
            steps=self.steps,
            sampling=self.sampling,
            separator=self.separator,
            token_budget=self.token_budget,
            aggregation=self.aggregate,
        )

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
    options: SearchOptions = run_verb("search", SearchOptions, args)
    print("\n".join(search(options)))


def search(options: SearchOptions) -> list[str]:
    """Search for the answers of problems, one after another, in a way that a kill cannot harm.

    Returns:
        Lines for a person: outcomes, accuracies, tokens.

    Raises:
        FileExistsError: the output is there already.
        ValueError: an option is out of range, a model or the problems cannot be read, another job
            was begun there, or the generator or the scorer fails.
        OSError: a server or the disk fails, or another process writes the output.
    """
    check_sampling(options.sampling)
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"search: --limit is {options.limit}, expected 1 or more.")
    if options.is_stepwise:
        require_division(options.settings)
    require_replaceable(options.results, overwrite=options.overwrite)
    problems: list[Problem] = []
    left_out: Counter[str] = Counter()  # rows by reason
    for found in read_problems(options.problems, options.limit):
        if isinstance(found, Dropped):
            left_out[found.reason] += 1
        else:
            problems.append(found)
    with job_lock(options.results, "search"):
        job, figures = _search_all(options, problems)
    summary = options.results.with_suffix(".summary.json")
    write_json(summary, {"job": job, "left_out": dict(left_out), **figures.to_json()})
    return [*figures.lines(left_out), f"results    {options.results}", f"summary    {summary}"]


def _search_all(
    options: SearchOptions, problems: Sequence[Problem]
) -> tuple[dict[str, Any], Figures]:
    """Write a row of results per problem; what the job was, and its figures."""
    from prm_lightning.scoring.scorers import fingerprint, load_scorer

    quieten_libraries()
    job = {key: value for key, value in asdict(options).items() if key not in _NOT_THE_RESULT}
    content = digest(json.dumps([asdict(problem) for problem in problems]))[:32]
    job |= {"model_content": fingerprint(options.model), "problems_content": content}
    rows = ResumableRows(options.results, job)
    figures = Figures(options.method)
    for record in rows.begin(overwrite=options.overwrite):
        figures.add(record)
    if figures.problems < len(problems):
        scorer = load_scorer(options.model, options.device)
        settings = options.settings
        if settings.aggregation is None:
            settings = replace(settings, aggregation=scorer.aggregation)
        reader = _stepwise(scorer) if options.is_stepwise else scorer
        generator = _load_generator(options)
        with Bar("searching", len(problems)) as bar:
            for problem in problems[figures.problems :]:
                bar.show(figures.problems)
                try:
                    result = METHODS[options.method](problem.question, generator, reader, settings)
                    record = record_of(problem, result)
                except Unanswerable as error:
                    record = refused(problem, str(error))
                rows.append(record)
                figures.add(record)
    if figures.outcomes[NOT_WRITTEN] == len(problems):
        rows.partial.unlink()  # or the corrected command would be another job than this one
        raise ValueError(
            f"search: the generator refused all {len(problems)} problems, the last one since "
            f"{record['message']}"
        )
    rows.finish(len(problems))
    return job, figures


def _stepwise(scorer: Any) -> Any:
    """The scorer, or one on top of it that reads each step once."""
    from prm_lightning.modeling.step_model import StepModel
    from prm_lightning.scoring.incremental import IncrementalScorer

    if isinstance(scorer, StepModel) and scorer.backbone.config.attention == "sdpa":
        return IncrementalScorer(scorer)
    return scorer


def _load_generator(options: SearchOptions) -> Generator:
    instruction = INSTRUCTION if options.instruction is None else options.instruction
    if options.generator.startswith(("http://", "https://")):
        from prm_lightning.generation.server import ServerGenerator

        url, model = urldefrag(options.generator)
        return ServerGenerator(
            url,
            model or None,
            endpoint=options.endpoint or ("completions" if options.is_stepwise else "chat"),
            tokenizer=options.tokenizer,
            instruction=instruction,
        )
    from prm_lightning.generation.local import LocalGenerator

    return LocalGenerator(options.generator, device=options.device, instruction=instruction)
