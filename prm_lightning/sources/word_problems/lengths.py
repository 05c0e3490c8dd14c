"""Lengths in different units: metres and centimetres, laps, feet and inches."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "lengths/ribbon",
        {
            "long": among("m", 2.4, 3, 3.6, 4.5, 6, 7.2, 9, 12),
            "rolls": span("rolls", 2, 9),
            "piece": among("cm", 12, 15, 18, 20, 24, 30, 45),
            "price": span("$", 0.5, 4, 0.25),
        },
        (
            (
                "{a} has {rolls} rolls of ribbon with {long} m on each. {He} cuts all of it into "
                "pieces of {piece} cm and sells them at {price} a piece. How much money does {a} "
                "take in?"
            ),
            (
                "A roll of ribbon is {long} m long. From {rolls} rolls {a} cuts pieces of "
                "{piece} cm, which sell for {price} each. What do all the pieces bring?"
            ),
        ),
        (
            step(
                "metres",
                "m",
                "rolls * long",
                "All rolls together have {eq} m.",
                "In total there are {eq} m of ribbon.",
            ),
            step(
                "cm", "cm", "metres * 100", "In centimetres this is {eq}.", "That equals {eq} cm."
            ),
            step(
                "pieces",
                "pieces",
                "cm / piece",
                "So {a} cuts {eq} pieces.",
                "The number of pieces is {eq}.",
            ),
            step(
                "money",
                "$",
                "pieces * price",
                "The pieces bring {eq}.",
                "At {price} a piece, {a} takes in {eq}.",
            ),
        ),
        ("{a} takes in {answer}.", "The pieces bring {answer}."),
    ),
    Template(
        "lengths/laps",
        {
            "lap": among("m", 250, 400, 500, 750, 800, 1250),
            "laps": span("laps", 3, 16),
            "days": span("days", 4, 28),
            "goal": span("km", 60, 260, 10),
        },
        (
            (
                "One lap around a park is {lap} m. {a} runs {laps} laps a day for {days} days. "
                "{He} wants to run {goal} km in all. How many kilometres are still missing?"
            ),
            (
                "{a} trains on a track of {lap} m and runs {laps} rounds every day. After {days} "
                "days, how many kilometres are left to {his} goal of {goal} km?"
            ),
        ),
        (
            step(
                "daily",
                "m",
                "lap * laps",
                "Every day {a} runs {eq} m.",
                "In a day {a} covers {eq} m.",
                off_by_one="laps",
            ),
            step(
                "metres",
                "m",
                "daily * days",
                "In {days} days that is {eq} m.",
                "Over {days} days {a} runs {eq} m.",
            ),
            step(
                "km", "km", "metres / 1000", "In kilometres this is {eq}.", "This equals {eq} km."
            ),
            step(
                "rest",
                "km",
                "goal - km",
                "So {eq} km are missing.",
                "To the goal there are {eq} km left.",
            ),
        ),
        ("There are {answer} km missing.", "{a} still has {answer} km to run."),
        needs=("goal > km",),
    ),
    Template(
        "lengths/board",
        {
            "feet": span("feet", 4, 16),
            "inch": span("inches", 2, 11),
            "n": span("boards", 2, 8),
            "piece": among("inches", 6, 7, 8, 9, 10, 14),
        },
        (
            (
                "A board is {feet} feet {inch} inches long. {a} saws {n} such boards into pieces "
                "of {piece} inches, end to end, without waste. How many pieces does {a} get?"
            ),
            (
                "{a} has {n} boards of {feet} feet and {inch} inches each. How many pieces of "
                "{piece} inches can be cut from their joined length?"
            ),
        ),
        (
            step(
                "whole",
                "inches",
                "feet * 12",
                "The {feet} feet are {eq} inches.",
                "In inches, {feet} feet make {eq}.",
            ),
            step(
                "board",
                "inches",
                "whole + inch",
                "So one board is {eq} inches long.",
                "Each board measures {eq} inches.",
            ),
            step(
                "all",
                "inches",
                "board * n",
                "All boards together measure {eq} inches.",
                "The joined length is {eq} inches.",
                off_by_one="n",
            ),
            step(
                "pieces",
                "pieces",
                "all / piece",
                "{a} gets {eq} pieces.",
                "This gives {eq} pieces.",
            ),
        ),
        ("{a} gets {answer} pieces.", "So there are {answer} pieces."),
        split="validation",
    ),
)
