"""Files of the shape of gsm8k-gen-stepwise, of any number of rows; the wording is our own.

    python benchmarks/gsm8k_shape.py --rows 50916 rows.jsonl

What is imitated, because reading, splitting, tokenizing and planning depend on it: 6.8 attempts a
problem in a file of 50,916 rows, between 1 and 44 steps a row and 4.6 in the mean, lengths of
problems and steps as in GSM8K, Phi's chat markup around the problem, calculator marks in the
steps, a last line ``#### n``, one reference solution a problem, whose steps begin without a space,
and labels that are false from the first mark on whose arithmetic is wrong. Attempts at one problem
may begin alike. The problems make little sense; the same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

ROWS = 50_916
MAX_STEPS = 44
PROMPT = "<|user|>\n{problem}<|end|>\n<|assistant|>\n"

NAMES = [
    "Ada", "Bram", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hana", "Ivo", "Jamal",
    "Kirsi", "Luca", "Mona", "Nils", "Oksana", "Pedro", "Quinn", "Rosa", "Samir", "Tova",
    "Ulla", "Vikram", "Wren", "Ximena", "Yusuf", "Zora", "Anouk", "Bela", "Cyrus", "Dalia",
    "Emre", "Freya", "Goran", "Heidi", "Imre", "Joana", "Kofi", "Lotte", "Mateo", "Nadia",
    "Otto", "Petra", "Rafael", "Signe", "Tariq", "Uma", "Vera", "Willem", "Yara", "Zeno",
]  # fmt: skip
THINGS = [
    "apples", "bricks", "candles", "drums", "envelopes", "feathers", "gloves", "hats",
    "ink-pots", "jars", "kites", "lamps", "mugs", "nails", "oars", "pencils", "quilts",
    "ropes", "stamps", "tiles", "umbrellas", "vases", "wheels", "yo-yos", "zips", "badges",
    "carrots", "daisies", "eggs", "figs", "grapes", "hinges", "jigsaws", "keys", "ladders",
    "magnets", "napkins", "onions", "pears", "ribbons", "scarves", "tickets", "violins",
    "walnuts", "acorns", "beads", "coins", "dolls", "erasers", "flutes",
]  # fmt: skip
QUALITIES = [
    "amber", "brittle", "clean", "dusty", "empty", "fresh", "green", "heavy", "icy", "jagged",
    "knitted", "large", "muddy", "new", "old", "painted", "quiet", "round", "small", "tall",
    "used", "vivid", "woollen", "young", "zigzag", "blue", "cheap", "dark", "early", "fragile",
    "glossy", "hollow", "iron", "light", "mixed", "narrow", "oval", "plain", "red", "silver",
    "thin", "white", "yellow",
]  # fmt: skip
PLACES = [
    "attic", "bakery", "cellar", "depot", "export-hall", "farm", "garden", "harbour", "inn",
    "kitchen", "library", "market", "nursery", "office", "pantry", "quarry", "rail-yard",
    "school", "theatre", "workshop", "barn", "chapel", "dairy", "foundry", "gallery",
    "hospital", "kiosk", "laundry", "mill", "museum", "orchard", "parlour", "shed", "stable",
    "tavern", "tower", "vault", "warehouse", "yard",
]  # fmt: skip
ACTIONS = [
    "buys", "carries", "collects", "counts", "delivers", "exchanges", "finds", "folds",
    "gathers", "hides", "keeps", "lends", "loads", "mends", "moves", "orders", "packs",
    "paints", "picks", "polishes", "prints", "repairs", "sells", "sends", "shelves", "sorts",
    "stacks", "stores", "takes", "washes", "weighs", "wraps",
]  # fmt: skip
TIMES = [
    "morning", "afternoon", "evening", "night", "weekend", "holiday", "Monday", "Tuesday",
    "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "January", "February", "March",
    "April", "May", "June", "July", "August", "September", "October", "November", "December",
    "summer", "winter", "spring", "autumn",
]  # fmt: skip
OPENINGS = [
    "So", "Then", "Now", "Next", "Afterwards", "Therefore", "Altogether", "Hence", "Thus",
    "Here", "First", "Finally", "That-day", "Meanwhile", "Later",
]  # fmt: skip


def make(path: Path, rows: int = ROWS, seed: int = 0) -> None:
    """Write a file of so many rows, whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with beside.open("w", encoding="utf-8") as file:
        for row in generate(rows, seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    beside.replace(path)


def generate(rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of ``prompt, completions, labels``, the attempts at a problem behind one another."""
    written = problem = 0
    while written < rows:
        random = Random(f"{seed} {problem}")
        attempts = min(rows - written, round(random.triangular(1, 11, 8.4)))
        yield from _attempts(random, attempts)
        written += attempts
        problem += 1


class Line(NamedTuple):
    """A step, the number it arrives at, and whether all arithmetic up to here is right."""

    text: str
    value: int
    right: bool


def _attempts(random: Random, count: int) -> Iterator[dict[str, Any]]:
    prompt = PROMPT.format(problem=_problem(random))
    who, thing = random.choice(NAMES), random.choice(THINGS)
    earlier: list[list[Line]] = [[]]
    for attempt in range(count):
        like = random.choice(earlier) if random.random() < 0.3 else []  # samples may begin alike
        begun = [line for line in like[: random.randint(1, 4)] if line.right]
        error = 0.03 if attempt else 0.0  # the reference solution is right
        lines = _solution(random, who, thing, error, begun)
        earlier.append(lines)
        space = " " if attempt else ""
        value, right = lines[-1][1:] if lines else (random.randint(2, 60), True)
        yield {
            "prompt": prompt,
            "completions": [*(space + line.text for line in lines), f"{space}#### {value}"],
            "labels": [*(line.right for line in lines), right],
        }


def _problem(random: Random) -> str:
    pick = random.choice
    sentences = [
        f"{pick(NAMES)} {pick(ACTIONS)} {random.randint(2, 99)} {pick(QUALITIES)} {pick(THINGS)} "
        f"at the {pick(QUALITIES)} {pick(PLACES)} every {pick(TIMES)}."
        for _ in range(random.choice((2, 3, 3)))
    ]
    question = (
        f"How many {pick(QUALITIES)} {pick(THINGS)} does {pick(NAMES)} have in {pick(TIMES)}?"
    )
    return " ".join([*sentences, question])


def _solution(random: Random, who: str, thing: str, error: float, begun: list[Line]) -> list[Line]:
    """Lines behind those begun; a chance of `error` a line that its arithmetic is wrong."""
    lines = list(begun)
    for _ in range(_length(random) - 1 - len(lines)):
        value, right = lines[-1][1:] if lines else (random.randint(2, 60), True)
        lines.append(_line(random, who, thing, error, value, right))
    return lines


def _line(random: Random, who: str, thing: str, error: float, value: int, right: bool) -> Line:
    sign, other = random.choice("+-*" if 0 < value < 1000 else "+-"), random.randint(2, 30)
    result = {"+": value + other, "-": value - other, "*": value * other}[sign]
    if random.random() < error:
        result, right = result + random.choice((-10, -1, 1, 10)), False
    mark = f"{value}{sign}{other}=<<{value}{sign}{other}={result}>>{result}"
    opening, quality, place = (random.choice(words) for words in (OPENINGS, QUALITIES, PLACES))
    action, time = random.choice(ACTIONS), random.choice(TIMES)
    text = random.choice((
        f"{opening} {who} {action} {mark} {quality} {thing} at the {place} until {time}.",
        f"{opening} the {place} holds {mark} {quality} {thing} in {time}, as {who} says.",
        f"At the {place} {who} has {mark} {thing}.",
        f"{opening} there are {mark} {quality} {thing} in the {place} every {time} or so.",
        f"{opening} every {time} {who} {action} {mark} {quality} {thing} in the {place}.",
    ))  # fmt: skip
    return Line(text, result, right)


def _length(random: Random) -> int:
    """Steps of a row: 4.6 in the mean, at most 44, which samples that repeat themselves have."""
    if random.random() < 0.002:
        return min(MAX_STEPS, random.randint(13, 50))
    return min(MAX_STEPS, max(1, round(math.exp(random.gauss(1.44, 0.38)))))


def main() -> None:
    """Write a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--rows", type=int, default=ROWS, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices")
    args = parser.parse_args()
    make(args.path, args.rows, args.seed)


if __name__ == "__main__":
    main()
