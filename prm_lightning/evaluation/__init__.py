"""Verb `evaluate`: from scores to tables, each number beside its baselines and its interval.

Its options are here, apart from what does the work, which imports torch.
"""

from dataclasses import dataclass
from typing import Literal

from prm_lightning.command import UsageError

HUB_DATA = {"processbench": "Qwen/ProcessBench", "prmbench": "hitsmy/PRMBench_Preview"}


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure process reward models, each figure with its 95 % interval, next to baselines.

    Args:
        benchmark: processbench (find the first wrong step), steps (every metric of step scores),
            best-of-n (choose among samples) or prmbench (kinds of errors).
        output: folder for table.md, results.json and scores.jsonl.
        model: one or several; folders, Hub ids or URLs of servers, as for the verb score.
        data: files, folders or Hub ids; except for best-of-n also YAML files with lists of sources.
            Without any, processbench takes Qwen/ProcessBench and prmbench
            hitsmy/PRMBench_Preview, from the Hub.
        fit_on: validation data to fit the threshold on or, for best-of-n, pools to choose the
            aggregation on; problems that are in the data too are left out. Without any,
            both are what the model was saved with.
        baselines: cheap leaves out the untrained head and the surprisal of the language model, each
            of which takes as long as the model.
        limit: draw this many problems of each source or subset, for a quick look.
        resamples: bootstrap resamples of problems, for the intervals.
        seed: of resamples, of everything drawn, and of untrained heads.
        overwrite: replace the output folder.
        trust_remote_code: run Python code that comes with the models.
    """

    benchmark: Literal["processbench", "steps", "best-of-n", "prmbench"]
    output: str
    model: list[str] | None = None
    data: list[str] | None = None
    fit_on: list[str] | None = None
    baselines: Literal["all", "cheap"] = "all"
    limit: int | None = None
    resamples: int = 1000
    seed: int = 0
    overwrite: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for option, value, least in (("limit", self.limit, 1), ("resamples", self.resamples, 0)):
            if value is not None and value < least:
                raise UsageError(f"evaluate: --{option} is {value}, expected at least {least}.")
        needs = f"evaluate: --benchmark {self.benchmark} needs"
        if not self.data and self.benchmark not in HUB_DATA:
            raise UsageError(f"{needs} --data, such as a JSONL file.")
        if not self.model and self.benchmark != "best-of-n":
            raise UsageError(f"{needs} --model, such as a folder.")

    @property
    def models(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(self.model or []))

    @property
    def names(self) -> list[str]:
        """Of the data, or of their place on the Hub."""
        return self.data or [HUB_DATA[self.benchmark]]
