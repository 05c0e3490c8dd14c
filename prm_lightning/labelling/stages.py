"""The stages of labelling, each of which begins where the journal ends."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm_lightning.generation.prices import Price
from prm_lightning.labelling.asking import Asker
from prm_lightning.labelling.candidates import (
    READY,
    Candidates,
    ToJudge,
    by_claude,
    by_generator,
    from_rows,
)
from prm_lightning.labelling.dataset import Judged
from prm_lightning.labelling.journal import Journal
from prm_lightning.labelling.judging import ClaudeJudge, judge_and_store
from prm_lightning.labelling.options import Options
from prm_lightning.labelling.progress import Meter
from prm_lightning.labelling.selection import least_sure, score_uncertainty
from prm_lightning.labelling.stored import Stored, canonical
from prm_lightning.labelling.verdicts import judge_settings
from prm_lightning.labelling.writing import writer_settings
from prm_lightning.types import Dropped, Generator, Judge, Judgement, Sampling

if TYPE_CHECKING:
    from prm_lightning.labelling.problems import Problem


@dataclass(frozen=True)
class Run:
    """One call of `label`.

    Args:
        options: checked.
        journal: open.
        prices: by model.
        asker: asks Claude.
        meter: shows progress.
    """

    options: Options
    journal: Journal
    prices: Mapping[str, Price]
    asker: Asker
    meter: Meter

    def stored(self, kind: str, *told: Any) -> Stored:
        """The stored results of a stage, which has the name of all that decides them."""
        name = hashlib.sha256(canonical(told).encode()).hexdigest()[:16]
        return self.journal.stored(f"{kind} {name}")

    def thinking(self, model: str) -> dict[str, str] | None:
        """The API's parameter for a model; None leaves it out."""
        kind = self.prices[model].thinking_off
        return {"type": kind} if kind and self.options.thinking == "off" else None

    @cached_property
    def judge_settings(self) -> str:
        """What all verdicts of Claude share."""
        options = self.options
        model = options.judge_model
        return judge_settings(model, options.max_tokens, options.effort, self.thinking(model))

    @cached_property
    def writer_settings(self) -> list[str]:
        """What solutions by Claude share, of each variant."""
        model = self.options.writer_model
        return writer_settings(model, self.options.max_tokens, self.thinking(model))

    @cached_property
    def generator(self) -> Generator:
        """The model that writes and mines, loaded when it is first needed."""
        options = self.options
        given: dict[str, Any] = {}
        if options.instruction is not None:
            given["instruction"] = options.instruction
        if options.server:
            from prm_lightning.generation.server import ServerGenerator

            return ServerGenerator(options.server, options.server_model, **given)
        from prm_lightning.generation.local import LocalGenerator

        return LocalGenerator(str(options.sft_model), **given)

    @cached_property
    def claude_judge(self) -> ClaudeJudge:
        """Claude as a judge."""
        options = self.options
        return ClaudeJudge(self.asker, self.judge_settings, options.judge_model, options.mode)

    @property
    def sampling(self) -> Sampling:
        """Of solutions by that model."""
        options = self.options
        return Sampling(
            options.num_rollouts, options.max_new_tokens, options.temperature, seed=options.seed
        )


def problems(run: Run) -> Stored:
    """The questions to be answered, mined if that is asked for."""
    found, tried = _problem_stages(run)
    if found.is_finished:
        return found
    options = run.options
    reasons: Counter[str] = Counter()
    kept: list[Problem] = []
    run.meter.stage("mining" if options.mine_samples else "reading", options.num_samples)
    for problem in _mined(run, tried, reasons) if options.mine_samples else _read(run, reasons):
        kept.append(problem)
        run.meter.advance(1)
        if len(kept) >= options.num_samples:
            break
    if not kept:
        raise ValueError(
            f"label: no question of {options.problems} is left ({dict(reasons)}). "
            "Widen --min_fail and --max_fail, skip mining with --mine_samples 0, or give others."
        )
    found.append({"question": p.question, "answer": p.answer, "id": p.id} for p in kept)
    found.finish(dict(reasons))
    return found


def known_problems(run: Run) -> Stored | None:
    """The questions, unless a model would have to try them first."""
    if run.options.mine_samples and not _problem_stages(run)[0].is_finished:
        return None
    return problems(run)


def _problem_stages(run: Run) -> tuple[Stored, Stored]:
    options = run.options
    mining = options.mine_samples and (
        options.mine_samples, options.min_fail, options.max_fail, options.writer,
        options.temperature, options.max_new_tokens, options.seed, options.instruction,
    )  # fmt: skip
    told = fingerprint(options.problems), options.num_samples, mining
    return run.stored("problems", *told), run.stored("tried", *told)


def _read(run: Run, reasons: Counter[str]) -> Iterator[Problem]:
    from prm_lightning.labelling.problems import read_problems

    for row in read_problems(run.options.problems):
        if isinstance(row, Dropped):
            reasons[row.reason] += 1
        else:
            yield row


def _mined(run: Run, tried: Stored, reasons: Counter[str]) -> Iterator[Problem]:
    from prm_lightning.labelling.problems import mine

    options = run.options
    known = {value["id"]: value["fail_rate"] for value in tried}
    everything = mine(
        _read(run, reasons), run.generator, options.mine_samples, options.min_fail,
        options.max_fail, options.num_samples, run.sampling, known,
    )  # fmt: skip
    for mined in everything:
        if mined.problem.id not in known:
            tried.append([{"id": mined.problem.id, "fail_rate": mined.fail_rate}])
        if mined.outcome == "kept":
            yield mined.problem
        else:
            reasons[mined.outcome] += 1


def solutions(run: Run) -> Stored:
    """The solutions to be judged, written or read."""
    if run.options.solutions:
        return _ready_solutions(run)
    asked = problems(run)
    options, found = run.options, _solution_stage(run, asked)
    if found.is_finished:
        return found
    if options.method == 2:
        by_claude(
            asked, run.asker, run.writer_settings, options.writer_model, options.num_rollouts,
            options.mode, found,
        )  # fmt: skip
    else:
        run.meter.stage("writing", len(asked) * options.num_rollouts)
        run.meter.advance(len(found))
        by_generator(asked, lambda: run.generator, run.sampling, found, run.meter.advance)
    return found


def known_solutions(run: Run) -> Stored | None:
    """The solutions, unless some would have to be written first."""
    if run.options.solutions:
        return _ready_solutions(run)
    asked = known_problems(run)
    found = asked and _solution_stage(run, asked)
    return found if found and found.is_finished else None


def _solution_stage(run: Run, asked: Stored) -> Stored:
    options = run.options
    told: list[Any] = [asked.stage, options.num_rollouts]
    if options.method == 2:
        return run.stored("solutions", *told, run.writer_settings)
    return run.stored(
        "solutions", *told, options.writer, options.instruction, options.temperature,
        options.max_new_tokens, options.seed,
    )  # fmt: skip


def _ready_solutions(run: Run) -> Stored:
    from prm_lightning.sources.rows import read_rows

    file = str(run.options.solutions)
    found = run.stored("solutions", "ready", fingerprint(file))
    if not found.is_finished:
        reasons: Counter[str] = Counter()
        from_rows(read_rows(file), found, lambda row: reasons.update([row.reason]))
        found.finish(dict(reasons))
    if not len(found):
        raise ValueError(
            f"label: no row of {file} holds a solution with its question and reference answer "
            f"({found.about})."
        )
    return found


def ready(found: Stored) -> list[int]:
    """Indices of the solutions that can be judged."""
    return [i for i, c in enumerate(Candidates(found)) if c.outcome == READY]


def chosen(run: Run, found: Stored) -> list[int]:
    """Indices of the solutions to be judged: all that can be, or the least sure of these."""
    options, indices = run.options, ready(found)
    if options.prm is None or not indices:
        return indices
    stored = run.stored("uncertainty", found.stage, fingerprint(options.prm))
    if not stored.is_finished:
        run.meter.stage("selecting", len(indices))
        score_uncertainty(Candidates(found, indices), options.prm, stored, run.meter.advance)
    return [indices[i] for i in least_sure(list(stored), options.fraction)]


def judge_of(run: Run) -> Judge:
    """The judge that is asked for."""
    options = run.options
    if options.judge == "claude":
        return run.claude_judge
    from prm_lightning.labelling.rollouts import RolloutJudge

    rollouts = RolloutJudge(
        run.generator, options.rollouts, options.rollout_labels, options.rollout_search,
        run.sampling,
    )  # fmt: skip
    if options.judge == "rollouts":
        return rollouts
    from prm_lightning.labelling.agreement import AgreementJudge

    return AgreementJudge(run.claude_judge, rollouts)


def judgements(run: Run, judge: Judge, found: Stored, indices: Sequence[int]) -> Iterator[Judged]:
    """Every solution with what was said of it, in order.

    Args:
        run: this call.
        judge: from `judge_of`.
        found: all solutions.
        indices: of those to be judged, in order.
    """
    requests = ToJudge(Candidates(found, indices))
    if run.options.judge == "claude":
        said = judge.judge(requests)
    else:
        if run.options.judge == "agreement":
            run.claude_judge.ask_all(requests)  # all at once, so that batches are whole
        options = run.options
        told = found.stage, judge.name, options.seed, options.instruction, list(indices)
        stored = run.stored("judgements", *told)
        run.meter.stage("judging", len(requests))
        run.meter.advance(len(stored))
        said = judge_and_store(judge, requests, stored, run.meter.advance)
    wanted = iter(indices)
    following = next(wanted, None)
    for index, candidate in enumerate(Candidates(found)):
        if index == following:
            yield Judged(candidate, next(said))
            following = next(wanted, None)
        else:
            outcome = "not selected" if candidate.outcome == READY else candidate.outcome
            yield Judged(candidate, Judgement(outcome))


def fingerprint(path: str) -> str:
    """Names the content of a file or folder, or a Hub id, so that another one begins anew."""
    place = Path(path)
    files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
    if not files:
        return path
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()
