"""Search for the answers of many problems, one after another, in a way that a kill cannot harm."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag

from prm_lightning.files import ResumableRows, written_file
from prm_lightning.generation.sampling import check_sampling
from prm_lightning.labelling.problems import Problem, read_problems
from prm_lightning.labelling.progress import Meter
from prm_lightning.searching.budget import Remembers
from prm_lightning.searching.search import METHODS, SearchSettings, require_division
from prm_lightning.searching.search_figures import Figures, record_of, refused
from prm_lightning.types import Completion, Dropped, Generator, Prompt, Sampling

if TYPE_CHECKING:
    from prm_lightning.scoring.scorers import ModelScorer
    from prm_lightning.searching.search_verb import Options

_NOT_THE_RESULT = {"problems", "output", "limit", "overwrite", "device"}


class UnanswerableError(ValueError):
    """A generator refuses one problem and goes on to answer others."""


class GuardedGenerator:
    """Tells a problem that the generator refuses from a generator that fails.

    Args:
        generator: asked something trivial after it has raised `ValueError`. If it answers that, the
            problem was to blame, and `UnanswerableError` is raised; else its own error.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    @property
    def name(self) -> str:
        """Of the generator."""
        return self._generator.name

    def remembering(self) -> GuardedGenerator:
        """See `Remembers`; of a generator that cannot, itself."""
        inner = self._generator
        return GuardedGenerator(inner.remembering()) if isinstance(inner, Remembers) else self

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See `Generator`."""
        try:
            return self._generator.generate(prompts, sampling)
        except ValueError as error:
            try:
                self._generator.generate([Prompt("What is 1 + 1?")], Sampling(max_tokens=1))
            except ValueError:
                raise error from None
            raise UnanswerableError(str(error)) from error


def run(options: Options) -> list[str]:
    """Do what the options say.

    Returns:
        Lines for a person: outcomes, accuracies, tokens.

    Raises:
        FileExistsError: the output is there already.
        ValueError: an option is out of range, a model or the problems cannot be read, another job
            was begun there, or the generator or the scorer fails.
        OSError: a server or the disk fails.
    """
    settings = _settings(options)
    ResumableRows(options.results, {}).require_new(overwrite=options.overwrite)
    problems, left_out = _read(options)
    from prm_lightning.scoring.scorers import fingerprint, load_scorer
    from prm_lightning.terminal import quieten_libraries

    quieten_libraries()
    job = _job(options, problems, fingerprint(options.model))
    rows = ResumableRows(options.results, job)
    figures = Figures(options.method)
    for record in rows.begin(overwrite=options.overwrite):
        figures.add(record)
    if figures.problems < len(problems):
        scorer = load_scorer(options.model, options.device)
        generator = GuardedGenerator(_load_generator(options))
        with Meter() as meter:
            meter.stage("searching", len(problems))
            meter.advance(figures.problems)
            for problem in problems[figures.problems :]:
                record = _search(problem, generator, scorer, options, settings)
                rows.append(record)
                figures.add(record)
                meter.advance(1)
    rows.finish()
    summary = options.results.with_suffix(".summary.json")
    told = {"job": job, "left_out": dict(left_out), **figures.to_json()}
    with written_file(summary) as beside:
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        beside.write_text(text, encoding="utf-8", newline="\n")
    return [*figures.lines(left_out), f"results    {options.results}", f"summary    {summary}"]


def _settings(options: Options) -> SearchSettings:
    check_sampling(options.sampling)
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"search: --limit is {options.limit}, expected 1 or more.")
    settings = SearchSettings(
        n=options.n,
        width=options.width,
        steps=options.steps,
        sampling=options.sampling,
        separator=options.separator,
        token_budget=options.token_budget,
        aggregation=options.aggregate,
    )
    if options.is_stepwise:
        require_division(settings)
    return settings


def _read(options: Options) -> tuple[list[Problem], Counter[str]]:
    """The problems, and how many rows were left out for which reason."""
    problems: list[Problem] = []
    left_out: Counter[str] = Counter()
    for found in read_problems(options.problems, options.limit):
        if isinstance(found, Dropped):
            left_out[found.reason] += 1
        else:
            problems.append(found)
    return problems, left_out


def _job(options: Options, problems: Sequence[Problem], model: str) -> dict[str, Any]:
    """All that decides what the results are."""
    digest = hashlib.sha256(json.dumps([asdict(problem) for problem in problems]).encode())
    told = {key: value for key, value in asdict(options).items() if key not in _NOT_THE_RESULT}
    return told | {"model_content": model, "problems_content": digest.hexdigest()[:32]}


def _load_generator(options: Options) -> Generator:
    from prm_lightning.generation.prompts import INSTRUCTION

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


def _search(
    problem: Problem,
    generator: Generator,
    scorer: ModelScorer,
    options: Options,
    settings: SearchSettings,
) -> dict[str, Any]:
    if settings.aggregation is None:
        settings = replace(settings, aggregation=scorer.aggregation)
    search, reader = METHODS[options.method], _reader(scorer, options)
    try:
        result = search(problem.question, generator, reader, settings)
    except UnanswerableError as error:
        return refused(problem, str(error))
    return record_of(problem, result)


def _reader(scorer: ModelScorer, options: Options) -> Any:
    """The scorer, or one on top of it that reads each step once."""
    from prm_lightning.modeling.step_model import StepModel
    from prm_lightning.scoring.incremental import IncrementalScorer

    if not options.is_stepwise or not isinstance(scorer, StepModel):
        return scorer
    return IncrementalScorer(scorer) if scorer.backbone.config.attention == "sdpa" else scorer
