"""The options of `label`, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prm_lightning.labelling.asking import Mode
from prm_lightning.labelling.dataset import Reward
from prm_lightning.sources.rows import DATA_SUFFIXES

RolloutLabels = Literal["hard", "soft"]
RolloutSearch = Literal["every", "binary"]
JudgeKind = Literal["claude", "rollouts", "agreement"]


@dataclass(frozen=True)
class Options:
    """Turn problems into solutions with step rewards, verified by Claude; resumable.

    Args:
        method: 1: a model of yours writes the solutions; 2: Claude does. Claude judges both.
        reward: HE or SE; the other one afterwards costs nothing.
        sft_model: model that writes and mines: a checkpoint, PEFT adapter, Hub id or GGUF.
        server: in its place, URL of an OpenAI-compatible server such as vLLM.
        server_model: what that server calls the model; by default the one that it serves.
        instruction: behind every problem given to that model; empty for one trained without.
        problems: questions with answers: a Hub id, folder or file of OpenMathInstruct-1, GSM8K or
            any rows of question and answer.
        solutions: JSON Lines of question, answer and solution or steps: judge these, write none.
        num_samples: at most this many questions.
        num_rollouts: solutions of each question.
        mine_samples: tries of the model at each question to see how hard it is; 0 takes all.
        min_fail: lowest share of failed tries of a question that is kept, in [0, 1].
        max_fail: highest such share, in [0, 1].
        temperature: of the model that writes; Claude has none.
        max_new_tokens: of a solution.
        seed: of the model that writes.
        judge: claude; rollouts: completions by the model from each prefix; agreement: solutions
            where both name the same first error.
        judge_model: Claude model that judges.
        writer_model: Claude model that writes, with method 2.
        effort: of the judge: low, medium or high.
        thinking: off where the model allows it, else left to the model. Thinking is billed.
        max_tokens: of one answer of Claude; twice as many where an answer was cut off.
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
        journal: folder of what was asked and paid (default: journal_method{method} beside it).
        overwrite: replace the output folder; never the journal.
        then_fit: configuration that is trained afterwards, or from its last checkpoint on.
        concurrency: live requests at a time.
        chunk: requests in one Message Batch, at most.
        longest_wait: seconds; no pause is longer, whatever the API asks for.
        timeout: seconds for one answer.
    """

    method: Literal[1, 2] = 1
    reward: Reward = "SE"
    sft_model: str | None = None
    server: str | None = None
    server_model: str | None = None
    instruction: str | None = None
    problems: str = "nvidia/OpenMathInstruct-1"
    solutions: str | None = None
    num_samples: int = 1000
    num_rollouts: int = 5
    mine_samples: int = 8
    min_fail: float = 0.3
    max_fail: float = 0.8
    temperature: float = 0.8
    max_new_tokens: int = 512
    seed: int = 0
    judge: JudgeKind = "claude"
    judge_model: str = "claude-sonnet-5-5"
    writer_model: str = "claude-haiku-5-5"
    effort: Literal["low", "medium", "high"] = "medium"
    thinking: Literal["off", "model"] = "off"
    max_tokens: int = 3000
    rollouts: int = 8
    rollout_labels: RolloutLabels = "hard"
    rollout_search: RolloutSearch = "binary"
    select: Literal["all", "uncertain"] = "all"
    prm: str | None = None
    fraction: float = 0.5
    mode: Mode = "auto"
    budget: float | None = None
    prices: str | None = None
    dry_run: bool = False
    yes: bool = False
    skip_generation: bool = False
    output: str | None = None
    journal: str | None = None
    overwrite: bool = False
    then_fit: str | None = None
    concurrency: int = 8
    chunk: int = 2000
    longest_wait: float = 120.0
    timeout: float = 600.0

    @property
    def folder(self) -> Path:
        """That is written."""
        return Path(self.output or f"data/prm_dataset_method{self.method}_{self.reward}")

    @property
    def journal_folder(self) -> Path:
        """Shared by HE and SE."""
        return Path(self.journal or self.folder.parent / f"journal_method{self.method}")

    @property
    def writer(self) -> str | None:
        """The model, not Claude, that writes and mines."""
        if self.server:
            return f"{self.server} {self.server_model or ''}".strip()
        return self.sft_model

    @property
    def written_by(self) -> str:
        """Who writes the solutions, for records."""
        if self.solutions:
            return f"ready: {Path(self.solutions).name}"
        return self.writer_model if self.method == 2 else str(self.writer)

    @property
    def claude_models(self) -> list[str]:
        """Models of Claude that this run may ask."""
        writes = self.method == 2 and not self.solutions
        return [self.judge_model] * self.uses_claude + [self.writer_model] * writes

    @property
    def told(self) -> dict[str, Any]:
        """The options that decide what is in the data, for records."""
        aside = {"dry_run", "yes", "skip_generation", "output", "journal", "overwrite", "then_fit"}
        return {name: value for name, value in vars(self).items() if name not in aside}

    @property
    def uses_claude(self) -> bool:
        """Whether Claude judges."""
        return self.judge != "rollouts"

    def check(self) -> None:
        """Find what cannot work before anything is done.

        Raises:
            ValueError: with what to change.
            FileExistsError: the output folder is there.
            FileNotFoundError: the configuration to train is not.
        """
        ranges = {
            "num_samples": self.num_samples >= 1, "num_rollouts": self.num_rollouts >= 1,
            "mine_samples": self.mine_samples >= 0, "rollouts": self.rollouts >= 1,
            "fraction": 0 < self.fraction <= 1, "max_tokens": 1 <= self.max_tokens <= 32_000,
            "concurrency": self.concurrency >= 1, "chunk": 1 <= self.chunk <= 100_000,
            "budget": self.budget is None or self.budget >= 0,
            "longest_wait": self.longest_wait >= 0, "timeout": self.timeout > 0,
            "max_new_tokens": self.max_new_tokens >= 1, "temperature": self.temperature >= 0,
        }  # fmt: skip
        for name, is_fine in ranges.items():
            if not is_fine:
                raise ValueError(
                    f"label: {name} is {getattr(self, name)}, out of range; see --help."
                )
        if not 0 <= self.min_fail <= self.max_fail <= 1:
            raise ValueError(
                f"label: min_fail {self.min_fail} and max_fail {self.max_fail} must satisfy "
                "0 <= min_fail <= max_fail <= 1."
            )
        if self.sft_model and self.server:
            raise ValueError("label: --sft_model and --server both write; give one of them.")
        if self.select == "uncertain" and not self.prm:
            raise ValueError("label: --select uncertain needs --prm, a trained model's folder.")
        if self.prm and self.select != "uncertain":
            raise ValueError("label: --prm is used by --select uncertain alone; add that.")
        if self.then_fit and not Path(self.then_fit).is_file():
            raise FileNotFoundError(f"label: --then_fit {self.then_fit}: there is no such file.")
        if self.skip_generation:
            return
        for name, path in (("problems", self.problems), ("solutions", self.solutions)):
            if path and path.endswith(DATA_SUFFIXES) and not Path(path).is_file():
                raise FileNotFoundError(f"label: --{name} {path}: there is no such file.")
        self._check_writers()
        if self.folder.exists() and not (self.overwrite or self.dry_run):
            raise FileExistsError(
                f"label: {self.folder} exists. Use it with --skip_generation, replace it with "
                "--overwrite (what is in the journal is not paid for again), or give another "
                "folder with --output_dir."
            )

    def _check_writers(self) -> None:
        needs = []
        if self.judge != "claude":
            needs.append(f"--judge {self.judge}")
        if not self.solutions and self.method == 1:
            needs.append("--method 1")
        if not self.solutions and self.method == 2 and self.mine_samples:
            needs.append("mining (--mine_samples 0 skips it)")
        if needs and not self.writer and not self.dry_run:
            raise ValueError(
                f"label: {' and '.join(needs)} needs a model: give --sft_model PATH or --server "
                "URL" + ("." if self.judge != "claude" else ", or ready --solutions FILE.")
            )
