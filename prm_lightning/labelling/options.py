"""The options of `label`, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urldefrag

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from prm_lightning.command import UsageError
from prm_lightning.generation.prompts import is_url
from prm_lightning.labelling.batches import Mode
from prm_lightning.labelling.judges import RolloutLabels, RolloutSearch
from prm_lightning.sources.rows import DATA_SUFFIXES

MOST_TOKENS, LARGEST_CHUNK = 32_000, 100_000


@dataclass(frozen=True)
class LabelOptions:
    """Turn problems into solutions with step rewards; resumable, and nothing is paid for twice.

    Args:
        method: 1: a model of yours writes the solutions; 2: Claude does.
        reward: HE or SE; the other one afterwards costs nothing.
        generator: model that writes and mines: a checkpoint, PEFT adapter, Hub id, .gguf file,
            package://PACKAGE/FILE.gguf, or the URL of an OpenAI-compatible server, with #MODEL
            after it where that serves several.
        sft_model: the same, by its name in the guide.
        server: in its place, URL of an OpenAI-compatible server such as vLLM.
        server_model: what that server calls the model; by default the one that it serves.
        instruction: follows every problem given to that model; empty for one trained without.
        problems: questions with answers: a Hub id, folder or file of OpenMathInstruct-1, GSM8K or
            any rows of question and answer.
        solutions: JSON Lines of question, answer and solution or steps: judge these, write none.
        num_samples: at most this many questions.
        num_rollouts: solutions of each question.
        mine_samples: tries of the model at each question to see how hard it is; 0 takes all.
        min_fail: lowest share of failed tries of a question that is kept, in [0, 1].
        max_fail: highest such share, in [0, 1].
        temperature: of the model that writes; Claude has none.
        max_new_tokens: bound on the tokens of a solution.
        seed: seed of the model that writes.
        judge: claude; rollouts: completions by the model from each prefix; agreement: solutions
            where both name the same first error; equations: arithmetic, without Claude or a model.
        judge_model: Claude model that judges.
        writer_model: Claude model that writes, with method 2.
        effort: of the Claude model that judges.
        thinking: off where the model allows it, else left to the model. Thinking is billed.
        max_tokens: bound on one answer of Claude; twice as many where an answer was cut off.
        rollouts: completions from each prefix, for the judges that use them.
        rollout_labels: hard or soft: whether any completion reached the answer, or what share.
        rollout_search: every prefix, or a binary search for the first wrong step.
        select: all solutions are judged, or those that --prm is least sure of.
        prm: folder of a process reward model, for --select uncertain.
        fraction: share of the solutions that is selected, in (0, 1].
        mode: live requests, Message Batches at half the price, or by number.
        budget: USD that may be spent over the journal's whole life; required to spend anything.
        prices: YAML file that overrides or adds prices.
        dry_run: print how many requests it would be and what they cost, and stop.
        yes: do not ask before spending.
        skip_generation: use the complete folder as it is; ask nothing, pay nothing.
        output: folder to write (default: data/prm_dataset_method{method}_{reward}).
        journal: folder of what was asked and paid (default: journal_method{method} next to it).
        overwrite: replace the output folder; never the journal.
        then_fit: configuration that is trained afterwards, or from its last checkpoint on.
        concurrency: live requests at a time.
        chunk: requests in one Message Batch, at most.
        longest_wait: seconds; no pause is longer, whatever the API asks for.
        timeout: seconds for one answer.
    """

    method: Literal[1, 2] = 1
    reward: Literal["HE", "SE"] = "SE"
    generator: str | None = None
    sft_model: str | None = None
    server: str | None = None
    server_model: str | None = None
    instruction: str | None = None
    problems: str = "nvidia/OpenMathInstruct-1"
    solutions: str | None = None
    num_samples: PositiveInt = 1000
    num_rollouts: PositiveInt = 5
    mine_samples: NonNegativeInt = 8
    min_fail: ClosedUnitInterval = 0.3
    max_fail: ClosedUnitInterval = 0.8
    temperature: NonNegativeFloat = 0.8
    max_new_tokens: PositiveInt = 512
    seed: int = 0
    judge: Literal["claude", "rollouts", "agreement", "equations"] = "claude"
    judge_model: str = "claude-sonnet-5-5"
    writer_model: str = "claude-haiku-5-5"
    effort: Literal["low", "medium", "high"] = "medium"
    thinking: Literal["off", "model"] = "off"
    max_tokens: PositiveInt = 3000
    rollouts: PositiveInt = 8
    rollout_labels: RolloutLabels = "hard"
    rollout_search: RolloutSearch = "binary"
    select: Literal["all", "uncertain"] = "all"
    prm: str | None = None
    fraction: ClosedUnitInterval = 0.5
    mode: Mode = "auto"
    budget: NonNegativeFloat | None = None
    prices: str | None = None
    dry_run: bool = False
    yes: bool = False
    skip_generation: bool = False
    output: str | None = None
    journal: str | None = None
    overwrite: bool = False
    then_fit: str | None = None
    concurrency: PositiveInt = 8
    chunk: PositiveInt = 2000
    longest_wait: NonNegativeFloat = 120.0
    timeout: PositiveFloat = 600.0

    @property
    def folder(self) -> Path:
        """The folder that is written."""
        return Path(self.output or f"data/prm_dataset_method{self.method}_{self.reward}")

    @property
    def journal_folder(self) -> Path:
        """The folder of the journal, shared by HE and SE."""
        return Path(self.journal or self.folder.parent / f"journal_method{self.method}")

    @property
    def model(self) -> str | None:
        """The model, not Claude, that writes and mines."""
        return self.generator or self.sft_model or self.server

    @property
    def writer(self) -> str | None:
        """That model as journals and records name it."""
        url, name = urldefrag(self.model or "")
        return f"{url} {self.server_model or name}".strip() if is_url(url) else self.model

    @property
    def asks_claude(self) -> bool:
        """Whether Claude judges."""
        return self.judge in ("claude", "agreement")

    @property
    def claude_models(self) -> list[str]:
        """Models of Claude that this run may ask."""
        writes = self.method == 2 and not self.solutions
        return [self.judge_model] * self.asks_claude + [self.writer_model] * writes

    def check(self) -> None:
        """Find options that contradict each other, before anything is done."""
        if self.max_tokens > MOST_TOKENS or self.chunk > LARGEST_CHUNK or not self.fraction:
            raise UsageError(
                f"label: max_tokens {self.max_tokens}, chunk {self.chunk}, fraction "
                f"{self.fraction}: expected at most {MOST_TOKENS} and {LARGEST_CHUNK}, and above 0."
            )
        if (self.select == "uncertain") != bool(self.prm):
            raise UsageError(
                "label: --select uncertain and --prm, a trained model's folder, need each other."
            )
        if self.min_fail > self.max_fail:
            raise UsageError(
                f"label: min_fail {self.min_fail} is above max_fail {self.max_fail}; no question "
                "could be kept."
            )
        if sum(map(bool, (self.generator, self.sft_model, self.server))) > 1:
            raise UsageError(
                "label: --generator, --sft_model and --server name what writes; give one of them."
            )
        if not self.skip_generation:
            self._check_inputs()
        if self.then_fit and not Path(self.then_fit).is_file():
            raise FileNotFoundError(f"label: --then_fit {self.then_fit}: there is no such file.")
        if self.folder.exists() and not (self.overwrite or self.dry_run or self.skip_generation):
            raise FileExistsError(
                f"label: {self.folder} exists. Use it with --skip_generation, replace it with "
                "--overwrite (what is in the journal is not paid for again), or give another "
                "folder with --output_dir."
            )

    def _check_inputs(self) -> None:
        for name, path in (("problems", self.problems), ("solutions", self.solutions)):
            if path and path.endswith(DATA_SUFFIXES) and not Path(path).is_file():
                raise FileNotFoundError(f"label: --{name} {path}: there is no such file.")
        needs = [f"--judge {self.judge}"] * (self.judge in ("rollouts", "agreement"))
        if not self.solutions and self.method == 1:
            needs.append("--method 1")
        elif not self.solutions and self.mine_samples:
            needs.append("mining (--mine_samples 0 skips it)")
        if needs and not self.model and not self.dry_run:
            raise UsageError(
                f"label: {' and '.join(needs)} needs a model: give --generator, a local model or "
                "the URL of a server, or ready --solutions FILE."
            )
