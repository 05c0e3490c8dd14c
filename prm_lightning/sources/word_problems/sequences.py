"""Sequences: rows, sums, growth, posts, savings and days."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "sequences/rows",
        {
            "first": span("seats", 10, 40),
            "more": span("seats", 2, 6),
            "n": span("rows", 6, 25),
            "price": span("$", 4, 30, 0.5),
        },
        (
            (
                "The first row of a theatre has {first} seats, and each row has {more} seats "
                "more than the one before it. A seat in row {n} costs {price}. What do all seats "
                "in row {n} cost together?"
            ),
            (
                "In a hall, row 1 has {first} seats and every further row has {more} more. How "
                "much money does a full row {n} bring at {price} a seat?"
            ),
        ),
        (
            step(
                "extra",
                "seats",
                "(n - 1) * more",
                "Up to row {n} the rows gain {eq} seats.",
                "Compared with the first row, row {n} has {eq} extra seats.",
                off_by_one="n * more",
            ),
            step(
                "seats",
                "seats",
                "first + extra",
                "Row {n} has {eq} seats.",
                "So there are {eq} seats in row {n}.",
                relation="first * more",
            ),
            step(
                "cost",
                "$",
                "seats * price",
                "Together they cost {eq}.",
                "At {price} a seat the row brings {eq}.",
            ),
        ),
        ("The row brings {answer}.", "All seats of the row cost {answer}."),
    ),
    Template(
        "sequences/stack",
        {"first": span("cans", 2, 20), "more": span("cans", 2, 5), "n": span("rows", 5, 20)},
        (
            (
                "A display of {things} has {n} rows. The top row holds {first}, and each row "
                "below holds {more} more than the row above. How many {things} are in the "
                "display?"
            ),
            (
                "{a} stacks {things} in {n} rows: {first} in the top row and {more} more in each "
                "row further down. How many {things} does {a} stack?"
            ),
        ),
        (
            step(
                "extra",
                "cans",
                "(n - 1) * more",
                "The bottom row has {eq} more than the top row.",
                "From top to bottom the rows grow by {eq}.",
                off_by_one="n * more",
            ),
            step(
                "last",
                "cans",
                "first + extra",
                "The bottom row holds {eq} {things}.",
                "So there are {eq} {things} in the bottom row.",
            ),
            step(
                "pair",
                "cans",
                "first + last",
                "Top and bottom row together have {eq}.",
                "The top and the bottom row make {eq} {things}.",
            ),
            step(
                "sum",
                "cans",
                "n * pair / 2",
                "The whole display has {eq} {things}.",
                "So all rows hold {eq} {things}.",
                off_by_one="(n - 1) * pair / 2",
            ),
        ),
        ("Altogether there are {answer} {things}.", "The whole display has {answer} {things}."),
        words={"things": ("cans", "boxes", "oranges", "jars")},
    ),
    Template(
        "sequences/growth",
        {
            "start": span("cells", 15, 240, 5),
            "k": span("times", 2, 4),
            "loss": span("cells", 10, 250, 10),
        },
        (
            (
                "A culture starts with {start} {cells}. Every hour there are {k} times as many "
                "as an hour before. After three hours, {loss} are taken out. How many {cells} "
                "remain?"
            ),
            (
                "In a dish {start} {cells} are growing, and each hour their number becomes {k} "
                "times as large. How many are there after three hours, once {loss} have been "
                "removed?"
            ),
        ),
        (
            step(
                "one",
                "cells",
                "start * k",
                "After one hour there are {eq} {cells}.",
                "The first hour ends with {eq} {cells}.",
                relation="start + k",
            ),
            step(
                "two",
                "cells",
                "one * k",
                "After two hours there are {eq} {cells}.",
                "The second hour ends with {eq} {cells}.",
                relation="start + one",
            ),
            step(
                "three",
                "cells",
                "two * k",
                "After three hours there are {eq} {cells}.",
                "The third hour ends with {eq} {cells}.",
                relation="one + two",
            ),
            step(
                "rest",
                "cells",
                "three - loss",
                "When {loss} are taken out, {eq} remain.",
                "So {eq} {cells} are left.",
            ),
        ),
        ("So {answer} {cells} remain.", "In the end there are {answer} {cells}."),
        words={"cells": ("bacteria", "cells", "algae")},
        needs=("three > 2 * loss",),
    ),
    Template(
        "sequences/posts",
        {
            "far": span("m", 60, 900, 6),
            "gap": among("m", 3, 4, 5, 6, 7.5, 10, 12),
            "price": span("$", 8, 65),
            "fee": span("$", 50, 400, 10),
        },
        (
            (
                "Along a road of {far} m, {things} are set every {gap} m, with one at each end. "
                "One costs {price}, and the workers ask {fee} for setting them all. What is the "
                "total cost?"
            ),
            (
                "{a} puts {things} {gap} m apart along a straight way of {far} m, including both "
                "ends. Each costs {price}, and the work costs {fee} in all. How much is paid?"
            ),
        ),
        (
            step(
                "gaps",
                "posts",
                "far / gap",
                "There are {eq} gaps.",
                "The way is divided into {eq} gaps.",
            ),
            step(
                "posts",
                "posts",
                "gaps + 1",
                "So {eq} {things} are needed.",
                "The number of {things} is {eq}.",
                off_by_one="gaps - 1",
            ),
            step(
                "cost",
                "$",
                "posts * price",
                "The {things} cost {eq}.",
                "For the {things}, that is {eq}.",
                off_by_one="gaps * price",
            ),
            step(
                "total",
                "$",
                "cost + fee",
                "With the work the total is {eq}.",
                "Together with the work, {eq} is paid.",
            ),
        ),
        ("The total cost is {answer}.", "In all, {answer} is paid."),
        words={"things": ("lamps", "posts", "trees")},
    ),
    Template(
        "sequences/savings",
        {
            "first": span("$", 5, 60, 2.5),
            "more": span("$", 2, 15, 0.5),
            "goal": span("$", 100, 400, 10),
        },
        (
            (
                "{a} saves {first} in the first week, and every week {more} more than in the "
                "week before. After four weeks, how much is missing to the {goal} that a {item} "
                "costs?"
            ),
            (
                "For a {item} of {goal}, {a} puts aside {first} in week one and raises the "
                "amount by {more} each week. How much does {a} still need after week four?"
            ),
        ),
        (
            step(
                "two",
                "$",
                "first + more",
                "In the second week {a} saves {eq}.",
                "Week two brings {eq}.",
            ),
            step(
                "three",
                "$",
                "two + more",
                "In the third week {a} saves {eq}.",
                "Week three brings {eq}.",
                relation="first + two",
            ),
            step(
                "four",
                "$",
                "three + more",
                "In the fourth week {a} saves {eq}.",
                "Week four brings {eq}.",
            ),
            step(
                "saved",
                "$",
                "first + two + three + four",
                "In four weeks {a} saves {eq}.",
                "All four weeks make {eq}.",
                off_by_one="first + two + three",
            ),
            step("rest", "$", "goal - saved", "So {eq} is still missing.", "{a} still needs {eq}."),
        ),
        ("{a} still needs {answer}.", "So {answer} is missing."),
        words={"item": ("skateboard", "radio", "tent")},
        needs=("goal > saved",),
    ),
    Template(
        "sequences/pills",
        {
            "start": span("day", 2, 12),
            "end": span("day", 14, 30),
            "k": span("pills", 2, 5),
            "pack": among("pills", 6, 8, 9, 10, 12, 15),
            "price": span("$", 3, 20, 0.5),
        },
        (
            (
                "{a} takes {k} pills a day from day {start} of the month to day {end}, both days "
                "included. Pills come in packs of {pack} at {price} a pack. What do the pills "
                "cost?"
            ),
            (
                "From day {start} up to and including day {end} of a month, {a} needs {k} pills "
                "daily. A pack of {pack} pills costs {price}. How much does {a} pay for all of "
                "them?"
            ),
        ),
        (
            step(
                "days",
                "days",
                "end - start + 1",
                "{a} takes pills on {eq} days.",
                "The number of days is {eq}.",
                off_by_one="end - start",
            ),
            step(
                "pills",
                "pills",
                "days * k",
                "{a} needs {eq} pills.",
                "Altogether these are {eq} pills.",
            ),
            step(
                "packs",
                "packs",
                "pills / pack",
                "That is {eq} packs.",
                "So {eq} packs have to be bought.",
            ),
            step(
                "cost",
                "$",
                "packs * price",
                "The pills cost {eq}.",
                "At {price} a pack, {a} pays {eq}.",
            ),
        ),
        ("The pills cost {answer}.", "{a} pays {answer} for the pills."),
        split="validation",
    ),
)
