"""Solutions to be judged: written by a model, by Claude, or ready in a file; and which to judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice

from prm_lightning.answers import extract_answer, same_answer
from prm_lightning.files import digest
from prm_lightning.labelling.ask import Asker
from prm_lightning.labelling.batches import Mode, ask
from prm_lightning.labelling.journal import Stage
from prm_lightning.labelling.mining import answer_of
from prm_lightning.labelling.prompts import WRITTEN, Request, canonical, writer_requests
from prm_lightning.sources.rows import Row
from prm_lightning.text import split_steps
from prm_lightning.types import Completion, Dropped, Generator, JudgeRequest, Prompt, Sampling

READY = "ready"
WRITTEN_AT_ONCE = 32  # problems given to a generator before its solutions are stored
SCORED_AT_ONCE = 64  # solutions scored before their uncertainty is stored


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution that may be judged.

    Args:
        question: the problem.
        answer: its reference answer.
        solution: as it was written.
        steps: at least one where `outcome` is ``ready``.
        predicted: the final answer that the solution states; None where there is none.
        is_correct: whether that is the reference answer.
        generator: who wrote it.
        outcome: ``ready``, or in a word why it cannot be judged.
    """

    question: str
    answer: str
    solution: str = ""
    steps: tuple[str, ...] = ()
    predicted: str | None = None
    is_correct: bool = False
    generator: str = ""
    outcome: str = READY

    @property
    def key(self) -> str:
        """40 hexadecimal digits that copies of the solution share."""
        return digest(canonical([self.question, self.answer, self.steps]))[:40]

    @property
    def to_judge(self) -> JudgeRequest:
        """What a judge is told: nothing of who wrote it."""
        return JudgeRequest(self.question, self.steps, self.answer, self.is_correct)


def load_candidates(stage: Stage) -> list[Candidate]:
    """The candidates that the functions below have stored."""
    return [Candidate(**value | {"steps": tuple(value["steps"])}) for value in stage]


def from_row(row: Row) -> Candidate | Dropped:
    """A ready solution.

    A row holds ``question`` (or ``problem``), ``answer`` (or ``ground_truth_answer``, or
    ``expected_answer``) and ``steps`` or ``solution`` (or ``generated_solution``); it may name its
    ``generator``.
    """

    def unusable(reason: str, why: str) -> Dropped:
        return Dropped(row.place, reason, f"{row.place}: left out, {why}.")

    values = row.values
    question = values.get("question", values.get("problem"))
    answers = ("answer", "ground_truth_answer", "expected_answer")
    answer = next((values[name] for name in answers if name in values), None)
    steps = values.get("steps")
    solution = values.get("solution", values.get("generated_solution"))
    if not isinstance(question, str) or not question.strip():
        return unusable("no question", "expected text in `question`")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        return unusable("no answer", "expected text or a number in `answer`")
    if steps is not None and not (
        isinstance(steps, list) and steps and all(isinstance(s, str) and s.strip() for s in steps)
    ):
        return unusable("steps are not texts", "expected a list of texts, none blank")
    if steps is None and not (isinstance(solution, str) and solution.strip()):
        return unusable("no solution", "expected text in `solution`, or a list in `steps`")
    reference = str(answer)
    if "####" in reference or "\n" in reference.strip():  # a solution that states it
        reference = extract_answer(reference) or reference
    return settle(
        Candidate(
            question,
            reference.strip(),
            solution if isinstance(solution, str) else "",
            tuple(steps or ()),
            generator=str(values.get("generator", "")),
        )
    )


def settle(candidate: Candidate) -> Candidate:
    """Split a solution into steps where it is not, find its final answer and compare that."""
    solution = candidate.solution or "\n".join(candidate.steps)
    steps = candidate.steps or tuple(split_steps(solution))
    predicted = candidate.predicted or extract_answer(solution)
    correct = same_answer(predicted, candidate.answer)
    return replace(
        candidate, solution=solution, steps=steps, predicted=predicted, is_correct=correct
    )


def by_generator(
    problems: Sequence[dict[str, str]],
    generator: Callable[[], Generator],
    sampling: Sampling,
    stage: Stage,
    progress: Callable[[int], None],
) -> None:
    """Let a model write `sampling.n` solutions of each problem, and store them as they come.

    Args:
        problems: `question` and `answer` of each.
        generator: gives the model; called only if anything is left to write.
        sampling: how the model samples.
        stage: its length says how many are written already.
        progress: called with how many more are.
    """
    rest = islice(problems, len(stage) // sampling.n, None)
    while chunk := list(islice(rest, WRITTEN_AT_ONCE)):
        writer = generator()
        written = writer.generate([Prompt(problem["question"]) for problem in chunk], sampling)
        stage.append(
            asdict(_completed(problem, completion, writer.name))
            for problem, completions in zip(chunk, written, strict=True)
            for completion in completions
        )
        progress(len(chunk) * sampling.n)
    stage.finish()


def _completed(problem: dict[str, str], completion: Completion, writer: str) -> Candidate:
    completion = completion._replace(text=sound(completion.text))
    predicted, steps = answer_of(completion), split_steps(completion.text)
    if completion.ended == "length":  # its last step is torn
        steps = steps[:-1]
    return Candidate(
        problem["question"],
        problem["answer"],
        completion.text,
        tuple(steps),
        predicted,
        same_answer(predicted, problem["answer"]),
        sound(writer),
        READY if steps else "no complete step",
    )


def by_claude(
    problems: Sequence[dict[str, str]],
    asker: Asker,
    settings: list[str],
    model: str,
    solutions: int,
    mode: Mode,
    stage: Stage,
) -> None:
    """Let Claude write some solutions of each problem, and store them once all are there.

    Args:
        problems: `question` and `answer` of each.
        asker: gets Claude's answers.
        settings: of each variant of the prompt, from `writer_settings`.
        model: name of the model in these settings.
        solutions: how many of each problem, >= 1.
        mode: live requests or Message Batches.
        stage: gets them.

    Raises:
        UnfinishedError: before all was answered.
    """

    def requests() -> Iterator[tuple[dict[str, str], Request]]:
        for problem in problems:
            for request in writer_requests(settings, problem["question"], solutions):
                yield problem, request

    ask(asker, lambda: (request for _, request in requests()), mode)
    written = [_written(asker, model, *pair) for pair in islice(requests(), len(stage), None)]
    stage.append(map(asdict, written))
    stage.finish()


def _written(asker: Asker, model: str, problem: dict[str, str], request: Request) -> Candidate:
    answer = asker.outcome(request)
    bare = Candidate(problem["question"], problem["answer"], generator=model)
    if answer.outcome != WRITTEN:
        return replace(bare, outcome=f"not written: {answer.outcome}")
    steps, said = tuple(map(sound, answer.value["steps"])), sound(answer.value["answer"]) or None
    return settle(replace(bare, steps=steps, predicted=said))


def sound(text: str) -> str:
    """A text that can be written as UTF-8: halves of surrogate pairs become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


# Selection ---------------------------------------------------------------------------------


def uncertainty(scores: Sequence[float], threshold: float = 0.5) -> float:
    """How unsure a model is of a solution's first error, in [0, 1].

    The uncertainty of its least sure step, 1 - abs(2 p - 1), among those up to the first that it
    takes for wrong: what comes after that step decides nothing.

    Args:
        scores: P(correct) of each step, at least one.
        threshold: below it a step is taken for wrong.

    Source: selection by confidence as in Duan et al. 2025, "Efficient Process Reward Model Training
    via Active Learning", arXiv:2504.10559, here with one model in place of an ensemble.
    """
    wrong = [i for i, p in enumerate(scores) if p < threshold]
    until = scores[: wrong[0] + 1] if wrong else scores
    return max(1 - abs(2 * p - 1) for p in until)


def least_sure(values: Sequence[float], fraction: float) -> list[int]:
    """Indices, in order, of the share of values that is highest, rounded up; the first of equals.

    Args:
        values: uncertainty of each.
        fraction: share, in (0, 1].
    """
    most = math.ceil(len(values) * fraction)
    ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return sorted(ranked[:most])


def score_uncertainty(
    candidates: Iterable[Candidate], prm_folder: str, stage: Stage, progress: Callable[[int], None]
) -> None:
    """Store the uncertainty of each candidate under the process reward model of a folder.

    Args:
        candidates: in order.
        prm_folder: a trained model, as for `PRM.from_pretrained`.
        stage: its length says how many are scored already.
        progress: called with how many more are.
    """
    from prm_lightning.modeling.prm import PRM

    rest = islice(candidates, len(stage), None)
    prm = PRM.from_pretrained(prm_folder)
    while chunk := list(islice(rest, SCORED_AT_ONCE)):
        scores: list[list[float]] = []
        for question, group in groupby(chunk, lambda candidate: candidate.question):
            scores += prm.score(question, [list(solution.steps) for solution in group])
        stage.append(uncertainty(found, prm.manifest.threshold) for found in scores)
        progress(len(chunk))
    stage.finish()
