"""The stages of `label`, each of which begins where the journal ends.

The results of a stage have the name of all that decides them. So a run with other options keeps
what the stages before the changed one have come to, and begins anew from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from prm_lightning.files import digest
from prm_lightning.labelling.ask import Asker
from prm_lightning.labelling.batches import ask
from prm_lightning.labelling.journal import Stage
from prm_lightning.labelling.judges import (
    AgreementJudge,
    ClaudeJudge,
    EquationsJudge,
    RolloutJudge,
    load_judgement,
)
from prm_lightning.labelling.options import LabelOptions
from prm_lightning.labelling.prompts import (
    Request,
    canonical,
    judge_settings,
    writer_requests,
    writer_settings,
)
from prm_lightning.labelling.solutions import (
    READY,
    TRIED_AT_ONCE,
    UNANSWERABLE,
    Candidate,
    complete,
    fail_rates,
    from_claude,
    from_completion,
    from_row,
    least_sure,
    uncertainty,
)
from prm_lightning.sources.problems import Problem, read_problems
from prm_lightning.sources.rows import read_rows
from prm_lightning.terminal import Bar
from prm_lightning.types import Dropped, Generator, Judge, Judgement, JudgeRequest, Prompt, Sampling

JUDGED_AT_ONCE = 16  # solutions judged before what was said of them is stored
SCORED_AT_ONCE = 64  # solutions scored before their uncertainty is stored


@dataclass(frozen=True)
class Run:
    """One call of `label`."""

    options: LabelOptions  # checked
    asker: Asker  # gets Claude's answers, and has the journal
    bar: Bar  # shows how far a stage is

    def stage(self, kind: str, *decided_by: Any) -> Stage:
        """The stored results of a stage, which has the name of all that decides them."""
        return Stage(self.asker.journal, f"{kind} {digest(canonical(decided_by))[:16]}")

    def thinking(self, model: str) -> dict[str, str] | None:
        """The API's parameter for a model; None leaves it out."""
        kind = self.asker.prices[model].thinking_off
        return {"type": kind} if kind and self.options.thinking == "off" else None

    @cached_property
    def writer_settings(self) -> list[str]:
        """What solutions by Claude share, of each variant."""
        model = self.options.writer_model
        return writer_settings(model, self.options.max_tokens, self.thinking(model))

    @cached_property
    def claude_judge(self) -> ClaudeJudge:
        """Claude as a judge."""
        options, model = self.options, self.options.judge_model
        settings = judge_settings(model, options.max_tokens, options.effort, self.thinking(model))
        return ClaudeJudge(self.asker, settings, model, options.mode)

    @cached_property
    def generator(self) -> Generator:
        """The model that writes and mines, loaded when it is first needed."""
        from prm_lightning.generation.local import load_generator  # imports torch

        options = self.options
        return load_generator(str(options.model), options.instruction, served=options.server_model)

    @cached_property
    def sampling(self) -> Sampling:
        """How that model samples solutions."""
        options = self.options
        return Sampling(
            options.num_rollouts, options.max_new_tokens, options.temperature, seed=options.seed
        )

    # Problems ------------------------------------------------------------------------------

    @cached_property
    def _problem_names(self) -> tuple[Any, ...]:
        options = self.options
        mining = options.mine_samples and (
            options.mine_samples, options.min_fail, options.max_fail, options.writer,
            options.temperature, options.max_new_tokens, options.seed, options.instruction,
        )  # fmt: skip
        return fingerprint(options.problems), options.num_samples, mining

    def problems(self) -> Stage | None:
        """The questions to be answered, mined if asked for; None of a dry run that had to mine."""
        found, options = self.stage("problems", *self._problem_names), self.options
        if found.is_finished:
            return found
        if options.dry_run and options.mine_samples:
            return None
        reasons: Counter[str] = Counter()
        self.bar.stage("mining" if options.mine_samples else "reading", options.num_samples)
        kept: list[Problem] = []
        some = self._mined(reasons) if options.mine_samples else self._read(reasons)
        for problem in islice(some, options.num_samples):
            kept.append(problem)
            self.bar.advance()
        if not kept:
            raise ValueError(
                f"label: no question of {options.problems} is left ({dict(reasons)}). "
                "Widen --min_fail and --max_fail, skip mining by --mine_samples 0, or give others."
            )
        rows = [{"question": p.question, "answer": p.answer, "id": p.id} for p in kept]
        found.append(rows[len(found) :])
        found.finish(dict(reasons))
        return found

    def _read(self, reasons: Counter[str]) -> Iterator[Problem]:
        for row in read_problems(self.options.problems):
            if isinstance(row, Dropped):
                reasons[row.reason] += 1
            else:
                yield row

    def _mined(self, reasons: Counter[str]) -> Iterator[Problem]:
        options, tried = self.options, self.stage("tried", *self._problem_names)
        known = {value["id"]: value["fail_rate"] for value in tried}
        sampling = replace(self.sampling, n=options.mine_samples)
        for problem, rate in fail_rates(self._read(reasons), self.generator, sampling, known):
            if problem.id not in known:
                tried.append([{"id": problem.id, "fail_rate": rate}])
            if rate is not None and options.min_fail <= rate <= options.max_fail:
                yield problem
            elif rate is None:
                reasons[UNANSWERABLE] += 1
            else:
                reasons["too easy" if rate < options.min_fail else "too hard"] += 1

    # Solutions -----------------------------------------------------------------------------

    def solutions(self) -> Stage | None:
        """The solutions to be judged, written or read; None of a dry run that had to write them."""
        options = self.options
        if options.solutions:
            return self._ready_solutions(options.solutions)
        if (problems := self.problems()) is None:
            return None
        writer = (
            options.writer, options.instruction, options.temperature, options.max_new_tokens,
            options.seed,
        )  # fmt: skip
        decided_by = (self.writer_settings,) if options.method == 2 else writer
        found = self.stage("solutions", problems.name, options.num_rollouts, *decided_by)
        if not found.is_finished:
            if options.dry_run:
                return None
            write = self._ask_claude if options.method == 2 else self._let_model_write
            write(list(problems), found)
            found.finish()
        return found

    def _ask_claude(self, problems: list[dict[str, str]], found: Stage) -> None:
        options = self.options

        def requests() -> Iterator[tuple[dict[str, str], Request]]:
            settings, each = self.writer_settings, options.num_rollouts
            for problem in problems:
                for request in writer_requests(settings, problem["question"], each):
                    yield problem, request

        ask(self.asker, lambda: (request for _, request in requests()), options.mode)
        found.append(
            asdict(from_claude(problem, self.asker.outcome(request), options.writer_model))
            for problem, request in islice(requests(), len(found), None)
        )

    def _let_model_write(self, problems: list[dict[str, str]], found: Stage) -> None:
        each = self.options.num_rollouts

        def write(chunk: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
            prompts = [Prompt(problem["question"]) for problem in chunk]
            written = complete(self.generator, prompts, self.sampling)
            for problem, completions in zip(chunk, written, strict=True):
                for k in range(each):
                    completion = completions[k] if completions else None
                    yield asdict(from_completion(problem, completion, self.generator.name))

        self.bar.stage("writing", len(problems) * each)
        self.bar.advance(len(found))
        found.fill(problems, TRIED_AT_ONCE, write, self.bar.advance, each)

    def _ready_solutions(self, file: str) -> Stage:
        found = self.stage("solutions", "ready", fingerprint(file))
        if not found.is_finished:
            rows = [row if isinstance(row, Dropped) else from_row(row) for row in read_rows(file)]
            candidates = [asdict(row) for row in rows if isinstance(row, Candidate)]
            found.append(candidates[len(found) :])
            found.finish(Counter(row.reason for row in rows if isinstance(row, Dropped)))
        if not len(found):
            raise ValueError(
                f"label: no row of {file} holds a solution with its question and reference answer "
                f"({found.about})."
            )
        return found

    # Verdicts ------------------------------------------------------------------------------

    @cached_property
    def judge(self) -> Judge:
        """The judge that is asked for."""
        options = self.options
        if options.judge == "claude":
            return self.claude_judge
        if options.judge == "equations":
            return EquationsJudge()
        rollouts = RolloutJudge(
            self.generator, options.rollouts, options.rollout_labels, options.rollout_search,
            self.sampling,
        )  # fmt: skip
        return AgreementJudge(self.claude_judge, rollouts) if options.asks_claude else rollouts

    def judgements(self, found: Stage) -> Iterator[tuple[Candidate, Judgement]]:
        """Every solution with what was said of it, in order."""
        candidates = load_candidates(found)
        chosen = [i for i, candidate in enumerate(candidates) if candidate.outcome == READY]
        if self.options.prm is not None and chosen:
            doubts = self._doubts(found, [candidates[i] for i in chosen], self.options.prm)
            chosen = [chosen[i] for i in least_sure(doubts, self.options.fraction)]
        said = self._judge(found, [candidates[i].to_judge for i in chosen], chosen)
        wanted = set(chosen)
        for index, candidate in enumerate(candidates):
            outcome = "not selected" if candidate.outcome == READY else candidate.outcome
            yield candidate, next(said) if index in wanted else Judgement(outcome)

    def _doubts(self, found: Stage, candidates: list[Candidate], folder: str) -> list[float]:
        """How unsure a process reward model is of some solutions."""
        stage = self.stage("uncertainty", found.name, fingerprint(folder))
        if not stage.is_finished:
            from prm_lightning.modeling.prm import PRM  # heavy, and seldom needed

            prm = PRM.from_pretrained(folder)

            def score(chunk: list[Candidate]) -> Iterator[float]:
                for question, group in groupby(chunk, lambda candidate: candidate.question):
                    for scores in prm.score(question, [list(c.steps) for c in group]):
                        yield uncertainty(scores, prm.manifest.threshold)

            self.bar.stage("selecting", len(candidates))
            stage.fill(candidates, SCORED_AT_ONCE, score, self.bar.advance)
            stage.finish()
        return list(stage)

    def _judge(
        self, found: Stage, requests: list[JudgeRequest], chosen: list[int]
    ) -> Iterator[Judgement]:
        options, judge = self.options, self.judge
        if options.judge in ("claude", "equations"):
            return judge.judge(requests)
        if options.asks_claude:
            self.claude_judge.ask_all(requests)  # all at once, so that batches are whole
        decided_by = found.name, judge.name, options.seed, options.instruction, chosen
        stage = self.stage("judgements", *decided_by)
        self.bar.stage("judging", len(requests))
        self.bar.advance(len(stage))
        stage.fill(
            requests, JUDGED_AT_ONCE, lambda some: map(asdict, judge.judge(some)), self.bar.advance
        )
        return map(load_judgement, stage)


def load_candidates(stage: Stage) -> list[Candidate]:
    """The candidates that a stage holds."""
    return [Candidate(**value | {"steps": tuple(value["steps"])}) for value in stage]


def fingerprint(path: str) -> str:
    """Names the content of a file or folder, or a Hub id, so that another one begins anew."""
    place = Path(path)
    files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
    if not files:
        return path
    total = sha256()
    for file in files:
        total.update(file.name.encode() + b"\0")
        total.update(file.read_bytes())
    return total.hexdigest()
