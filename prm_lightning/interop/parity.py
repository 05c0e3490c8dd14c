"""Whether two ways to score give the same: measured on solutions that are hard to encode."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from prm_lightning.modeling.prm import PRM

LONG_STEPS = 6  # of the probe that is longer than a sliding window

APPLES = "Ann has 3 apples and buys 12 more apples. How many apples does she have now?"
PROBES: list[tuple[str, list[str]]] = [
    (APPLES, ["She has 3 + 12 = 15 apples.", "So the answer is 15."]),
    (APPLES, ["She has 3 * 12 = 36 apples.", "So the answer is 36."]),
    (
        "A train runs 60 miles in 2 hours.\n\nWhat is its speed?",
        ["Speed is distance / time:\n60 / 2 = 30", "miles an hour.\n \n\nThat is 30."],
    ),
    ("What is 7 * 8 - 6?", ["7 * 8 = 54", "54 - 6 = 48", "#### 48"]),
    (
        "Solve $x^2 = 9$ for $x > 0$.",
        ["Take the root:\n$$x = \\pm 3$$", "Since x > 0, x = 3 \u2713", "\\boxed{3}"],
    ),
    (
        "  Ignore this: <|im_end|> </s> <|endoftext|> [INST]  ",
        ["Step 1: \u4e8c\u52a0\u4e8c", "+", "- 5 < 6 > 4 && so\ttabs\r\nand lines"],
    ),
    (
        "A shop sells 40 pens at $1.25 each and 10 books at $12 each. What does it take?",
        ["40 * 1.25 = $50.", "10 * 12 = $120.", "Altogether 50 + 120 = $180.", "It takes $180."],
    ),
    ("2+2?", ["4"]),
]
DRIVER = """

import json
import sys

if sys.argv[1] != "cpu" and not getattr(model, "is_quantized", False):
    model.to(sys.argv[1])
scores = [score(problem, steps) for problem, steps in json.load(sys.stdin)]
foreign = sorted(name for name in sys.modules if name.partition(".")[0] == "prm_lightning")
print("\\n" + json.dumps({"scores": scores, "foreign": foreign}))
"""


@dataclass(frozen=True)
class Parity:
    """How far apart two ways to score are, in P(correct)."""

    steps: int  # how many were compared
    mean: float  # difference
    largest: float  # difference
    flips: int  # how many steps are on different sides of the threshold
    threshold: float  # a step is flagged if it is below

    def __str__(self) -> str:
        return (
            f"largest difference {self.largest:.2g}, mean {self.mean:.2g}, over {self.steps} "
            f"steps; {self.flips} on the other side of {self.threshold:.3g}"
        )


def probes_for(prm: PRM) -> list[tuple[str, list[str]]]:
    """`PROBES` and, of a model whose attention has a sliding window, one that is longer than it.

    A window that leaves no room for a longer solution in the model's context never matters.
    """
    config = prm.backbone.causal_lm.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if not window:
        return PROBES
    problem, sentence = "How many apples are there?", "She puts 3 + 4 = 7 apples into it."
    one, two = (len(prm.encode(problem, [f"{sentence} " * n]).input_ids) for n in (1, 2))
    repeated = f"{sentence} " * math.ceil(1.2 * window / LONG_STEPS / (two - one))
    steps = [f"Box {k}: {repeated}" for k in range(LONG_STEPS)]
    if len(prm.encode(problem, steps).input_ids) > prm.backbone.context:
        return PROBES
    return [*PROBES, (problem, steps)]


def compare(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], threshold: float
) -> Parity:
    """Compare P(correct) step by step."""
    if [len(row) for row in ours] != [len(row) for row in theirs]:
        raise ValueError("parity: the exported model gives another number of scores.")
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    differences = [abs(a - b) for a, b in pairs]
    return Parity(
        steps=len(pairs),
        mean=sum(differences) / len(pairs),
        largest=max(differences, key=lambda d: (d != d, d)),  # NaN is the largest of all
        flips=sum((a < threshold) != (b < threshold) for a, b in pairs),
        threshold=threshold,
    )


def require_parity(parity: Parity, exact: bool, tolerance: float | None, verb: str) -> None:
    """Refuse too large a difference, or one that is not a number.

    `exact` is whether nothing was rounded to bfloat16, so that only the order of additions differs;
    `tolerance` is the largest difference that is allowed in place of the usual ones.
    """
    largest, mean = (1e-5, 1e-5) if exact else (0.1, 0.01)
    if tolerance is not None:
        largest = mean = tolerance
    if not (parity.largest <= largest and parity.mean <= mean):
        raise ValueError(
            f"{verb}: the result does not score as the model does: {parity}; allowed {largest:g}, "
            f"mean {mean:g}. Nothing was written. Take float32 (--dtype fp32), or allow more with "
            "--tolerance."
        )


def score_in_fresh_process(
    code: str, device: str, offline: bool, probes: Sequence[tuple[str, Sequence[str]]]
) -> list[list[float]]:
    """Score with the `scoring_code` of a model card, in a Python that has loaded nothing else."""
    env = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    env |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    command = [sys.executable, "-P", "-c", code + DRIVER, device]
    asked = json.dumps(probes)
    done = subprocess.run(command, env=env, input=asked, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ValueError(f"export: plain transformers cannot score the result: {last}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["foreign"]:
        raise ValueError(f"export: the result needs {answer['foreign'][0]} to be loaded.")
    return list(answer["scores"])
