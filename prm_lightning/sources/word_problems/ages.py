"""Ages: more than, times as old, and years that pass."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "ages/three",
        {"age": span("years", 4, 18), "k": span("times", 2, 4), "gap": span("years", 2, 15)},
        (
            (
                "{b} is {age} years old. {a} is {k} times as old as {b}, and {c} is {gap} years "
                "older than {a}. How old are the three together?"
            ),
            (
                "{a} is {k} times as old as {b}, who is {age}. {c} is {gap} years older than "
                "{a}. What is the sum of their three ages?"
            ),
        ),
        (
            step(
                "older",
                "years",
                "age * k",
                "{a} is {eq} years old.",
                "So the age of {a} is {eq}.",
                relation="age + k",
            ),
            step(
                "oldest",
                "years",
                "older + gap",
                "{c} is {eq} years old.",
                "The age of {c} is {eq}.",
                relation="age + gap",
            ),
            step(
                "pair",
                "years",
                "age + older",
                "{b} and {a} together are {eq} years old.",
                "The ages of {b} and {a} add up to {eq}.",
            ),
            step(
                "sum",
                "years",
                "pair + oldest",
                "All three together are {eq} years old.",
                "With {c}, the sum of the ages is {eq}.",
            ),
        ),
        ("The three are {answer} years old together.", "Their ages add up to {answer}."),
    ),
    Template(
        "ages/later",
        {"age": span("years", 5, 40), "gap": span("years", 3, 25), "n": span("years", 4, 20)},
        (
            (
                "{a} is {gap} years younger than {b}, and {a} is {age} now. What will be the sum "
                "of their ages in {n} years?"
            ),
            (
                "{b} is {gap} years older than {a}. If {a} is {age} years old today, how old "
                "will the two be together {n} years from now?"
            ),
        ),
        (
            step(
                "other",
                "years",
                "age + gap",
                "{b} is {eq} years old now.",
                "Today the age of {b} is {eq}.",
                relation="age - gap",
            ),
            step(
                "first",
                "years",
                "age + n",
                "In {n} years {a} will be {eq}.",
                "{a} will then be {eq} years old.",
            ),
            step(
                "second",
                "years",
                "other + n",
                "In {n} years {b} will be {eq}.",
                "{b} will then be {eq} years old.",
            ),
            step(
                "sum",
                "years",
                "first + second",
                "Together they will be {eq} years old.",
                "So their ages will add up to {eq}.",
            ),
        ),
        ("The sum of their ages will be {answer}.", "Together they will be {answer} years old."),
    ),
    Template(
        "ages/sum",
        {"total": span("years", 24, 120), "k": span("times", 2, 5), "n": span("years", 2, 12)},
        (
            (
                "The ages of {a} and {b} add up to {total}. {a} is {k} times as old as {b}. How "
                "old will {a} be in {n} years?"
            ),
            (
                "{a} and {b} are {total} years old together, and {a} is {k} times as old as {b}. "
                "What will be the age of {a} after {n} years?"
            ),
        ),
        (
            step(
                "parts",
                "times",
                "k + 1",
                "Their ages together are {eq} times the age of {b}.",
                "The sum of the ages is {eq} times the age of {b}.",
            ),
            step(
                "young",
                "years",
                "total / parts",
                "So {b} is {eq} years old.",
                "The age of {b} is {eq}.",
                off_by_one="total / k",
            ),
            step(
                "old",
                "years",
                "young * k",
                "{a} is now {eq} years old.",
                "The age of {a} today is {eq}.",
                relation="young + k",
            ),
            step(
                "then",
                "years",
                "old + n",
                "In {n} years {a} will be {eq}.",
                "So {a} will then be {eq} years old.",
            ),
        ),
        ("{a} will be {answer} years old.", "The age of {a} will be {answer}."),
        needs=("100 > old",),
    ),
    Template(
        "ages/mother",
        {"age": span("years", 9, 20), "n": span("years", 3, 10), "k": span("times", 3, 7)},
        (
            (
                "{a} is {age} years old. {n} years ago {his} mother was {k} times as old as {a} "
                "was then. How old will the mother be when {a} is twice as old as today?"
            ),
            (
                "Today {a} is {age}. The mother of {a} was {k} times as old as {a} exactly {n} "
                "years ago. How old is the mother when {a} reaches twice {his} present age?"
            ),
        ),
        (
            step(
                "then",
                "years",
                "age - n",
                "{n} years ago {a} was {eq} years old.",
                "At that time {a} was {eq}.",
            ),
            step(
                "mother",
                "years",
                "then * k",
                "The mother was then {eq} years old.",
                "Back then the age of the mother was {eq}.",
                relation="then + k",
            ),
            step(
                "now",
                "years",
                "mother + n",
                "Today the mother is {eq}.",
                "So the mother is now {eq} years old.",
            ),
            step(
                "future",
                "years",
                "now + age",
                "When {a} is twice as old, the mother will be {eq}.",
                "By then {age} more years pass, so the mother will be {eq}.",
            ),
        ),
        ("The mother will be {answer} years old.", "The mother is {answer} by then."),
        needs=("now > age + 17", "60 > now"),
    ),
    Template(
        "ages/family",
        {
            "age": span("years", 30, 72, 2),
            "f": among("part", "1/2", "2/3", "3/4", "2/5", "3/5", "1/3"),
            "gap": span("years", 3, 14),
            "n": among("people", 3),
        },
        (
            (
                "{b} is {age} years old. {a} is {f} as old as {b}, and {c} is {gap} years "
                "younger than {a}. What is the mean age of the {n} people?"
            ),
            (
                "{a} has {f} of the age of {b}, who is {age}. {c} is {gap} years younger than "
                "{a}. What is the average age of all {n}?"
            ),
        ),
        (
            step("second", "years", "f * age", "{a} is {eq} years old.", "The age of {a} is {eq}."),
            step(
                "third",
                "years",
                "second - gap",
                "{c} is {eq} years old.",
                "The age of {c} is {eq}.",
                relation="second + gap",
            ),
            step(
                "two",
                "years",
                "age + second",
                "{b} and {a} together are {eq} years old.",
                "The ages of {b} and {a} make {eq}.",
            ),
            step(
                "sum",
                "years",
                "two + third",
                "With {c}, the sum of the ages is {eq}.",
                "All of them together are {eq} years old.",
            ),
            step(
                "mean",
                "years",
                "sum / n",
                "So the mean age is {eq}.",
                "On average they are {eq} years old.",
            ),
        ),
        ("The mean age is {answer}.", "Their average age is {answer} years."),
        split="validation",
    ),
)
