"""Unit conversion: dozens, litres, hours, currencies, grams and doses."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "conversions/eggs",
        {
            "dozens": span("dozens", 5, 60),
            "broken": span("eggs", 3, 48),
            "box": among("eggs", 4, 6, 8, 9, 10),
            "price": span("$", 1.5, 6, 0.25),
        },
        (
            (
                "A farm delivers {dozens} dozen eggs, but {broken} eggs are broken. The others "
                "are put into boxes of {box} that sell for {price} each. How much do the boxes "
                "bring?"
            ),
            (
                "Of {dozens} dozen eggs, {broken} break on the way. {a} packs the good ones in "
                "boxes of {box} and asks {price} for a box. What is the income from all boxes?"
            ),
        ),
        (
            step(
                "eggs",
                "eggs",
                "dozens * 12",
                "The farm delivers {eq} eggs.",
                "At first there are {eq} eggs.",
            ),
            step(
                "good",
                "eggs",
                "eggs - broken",
                "Of these, {eq} are good.",
                "After the loss, {eq} eggs remain.",
            ),
            step("boxes", "boxes", "good / box", "They fill {eq} boxes.", "This makes {eq} boxes."),
            step(
                "money",
                "$",
                "boxes * price",
                "The boxes bring {eq}.",
                "At {price} a box the income is {eq}.",
            ),
        ),
        ("The boxes bring {answer}.", "The income is {answer}."),
        needs=("eggs > broken",),
    ),
    Template(
        "conversions/punch",
        {
            "bowl": among("litres", 3.5, 4.5, 5, 6, 7.5, 9, 12),
            "n": span("bowls", 2, 8),
            "glass": among("ml", 150, 180, 200, 250, 300),
            "price": among("$", 0.75, 1, 1.25, 1.5, 2, 2.5),
        },
        (
            (
                "For a party {a} fills {n} bowls with {bowl} litres of {drink} each. It is sold "
                "in glasses of {glass} millilitres at {price} a glass. How much money comes in "
                "if everything is sold?"
            ),
            (
                "{a} prepares {n} bowls of {drink}, {bowl} litres in each. A glass of {glass} "
                "millilitres costs {price}. What is the income when all the {drink} is sold?"
            ),
        ),
        (
            step(
                "litres",
                "litres",
                "n * bowl",
                "There are {eq} litres of {drink}.",
                "All bowls together hold {eq} litres.",
            ),
            step(
                "ml",
                "ml",
                "litres * 1000",
                "This equals {eq} millilitres.",
                "In millilitres that is {eq}.",
            ),
            step(
                "glasses",
                "glasses",
                "ml / glass",
                "It fills {eq} glasses.",
                "So {eq} glasses can be sold.",
            ),
            step(
                "money",
                "$",
                "glasses * price",
                "The glasses bring {eq}.",
                "At {price} a glass the income is {eq}.",
            ),
        ),
        ("The income is {answer}.", "So {answer} comes in."),
        words={"drink": ("punch", "lemonade", "iced tea")},
    ),
    Template(
        "conversions/lessons",
        {
            "n": span("lessons", 2, 12),
            "long": among("minutes", 20, 25, 30, 40, 45, 50, 75, 90),
            "weeks": span("weeks", 2, 9),
            "pay": span("$", 12, 60, 2),
        },
        (
            (
                "{a} teaches {n} {what} lessons a week, each {long} minutes long, at {pay} an "
                "hour. How much does {a} earn in {weeks} weeks?"
            ),
            (
                "A {what} lesson takes {long} minutes. {a} gives {n} of them a week and is paid "
                "{pay} for each hour. What are {his} earnings after {weeks} weeks?"
            ),
        ),
        (
            step(
                "weekly",
                "minutes",
                "n * long",
                "In a week {a} teaches for {eq} minutes.",
                "The lessons of one week take {eq} minutes.",
            ),
            step(
                "minutes",
                "minutes",
                "weekly * weeks",
                "In {weeks} weeks this makes {eq} minutes.",
                "Over {weeks} weeks, {a} teaches {eq} minutes.",
                off_by_one="weeks",
            ),
            step(
                "hours",
                "hours",
                "minutes / 60",
                "That equals {eq} hours.",
                "In hours this is {eq}.",
            ),
            step("money", "$", "hours * pay", "So {a} earns {eq}.", "The earnings are {eq}."),
        ),
        ("{a} earns {answer}.", "The earnings are {answer}."),
        words={"what": ("piano", "chess", "swimming", "drawing")},
    ),
    Template(
        "conversions/currency",
        {
            "money": span("$", 150, 1500, 25),
            "fee": span("$", 5, 30, 2.5),
            "rate": among("euros", 0.8, 0.9, 0.75, 0.95),
            "room": span("euros", 40, 120, 5),
            "n": span("nights", 2, 7),
        },
        (
            (
                "{a} changes {money} into euros. The bank keeps a fee of {fee} first and then "
                "gives {rate} euros for a dollar. {a} pays {room} euros a night for {n} nights. "
                "How many euros are left?"
            ),
            (
                "From {money} a bank takes a fee of {fee}. For each remaining dollar {a} gets "
                "{rate} euros. A hotel costs {room} euros a night. How many euros does {a} have "
                "after {n} nights?"
            ),
        ),
        (
            step(
                "rest",
                "$",
                "money - fee",
                "After the fee, {eq} is exchanged.",
                "The bank exchanges {eq}.",
            ),
            step(
                "euros",
                "euros",
                "rest * rate",
                "For this {a} gets {eq} euros.",
                "That is worth {eq} euros.",
                unit_error="rest / rate",
            ),
            step(
                "hotel",
                "euros",
                "n * room",
                "The hotel costs {eq} euros.",
                "For the nights {a} pays {eq} euros.",
            ),
            step(
                "left",
                "euros",
                "euros - hotel",
                "So {eq} euros are left.",
                "{a} still has {eq} euros.",
            ),
        ),
        (
            "After the stay {a} has {answer} euros left.",
            "After {n} nights, {answer} euros are left.",
        ),
        needs=("euros > hotel",),
    ),
    Template(
        "conversions/nursing",
        {
            "drop": among("ml", 15, 20, 25, 40, 50),
            "times": span("doses", 2, 6),
            "days": span("days", 5, 21),
            "flask": among("litres", 0.5, 0.75, 1.5, 2),
        },
        (
            (
                "A patient gets {drop} millilitres of syrup {times} times a day for {days} days. "
                "It comes in flasks of {flask} litres. How many litres of syrup are left over "
                "from 4 flasks?"
            ),
            (
                "{a} must take {drop} millilitres of syrup {times} times each day. A flask holds "
                "{flask} litres, and {a} has 4 flasks. How many litres are left after {days} "
                "days?"
            ),
        ),
        (
            step(
                "daily",
                "ml",
                "drop * times",
                "Each day takes {eq} millilitres.",
                "The daily amount is {eq} millilitres.",
            ),
            step(
                "ml",
                "ml",
                "daily * days",
                "Over {days} days that is {eq} millilitres.",
                "In {days} days, {eq} millilitres are used.",
                off_by_one="days",
            ),
            step(
                "used",
                "litres",
                "ml / 1000",
                "This equals {eq} litres.",
                ("In litres that is {eq}."),
            ),
            step(
                "have",
                "litres",
                "flask * 4",
                "The flasks hold {eq} litres.",
                "There are {eq} litres in the flasks.",
            ),
            step(
                "left",
                "litres",
                "have - used",
                "So {eq} litres are left.",
                "What is left is {eq} litres.",
            ),
        ),
        ("There are {answer} litres left.", "So {answer} litres remain."),
        needs=("have > used",),
        split="validation",
    ),
    Template(
        "conversions/sacks",
        {
            "kilos": among("kg", 1.5, 2.4, 3, 4.5, 6, 7.5, 12, 15, 18),
            "bag": among("grams", 50, 75, 120, 125, 150, 200, 250),
        },
        (
            (
                "{a} fills {kilos} kg of {stuff} into small bags that hold {bag} grams each. How "
                "many bags does {he} fill?"
            ),
            (
                "A sack holds {kilos} kg of {stuff}. How many bags of {bag} grams can {a} fill "
                "from it?"
            ),
            (
                "From {kilos} kg of {stuff}, {a} fills bags of {bag} grams until nothing is "
                "left. How many bags are there?"
            ),
        ),
        (
            step(
                "grams",
                "grams",
                "kilos * 1000",
                "In grams, the {stuff} weighs {eq}.",
                "There are {eq} grams of {stuff}.",
                "The weight is {eq} grams.",
            ),
            step(
                "bags",
                "bags",
                "grams / bag",
                "This fills {eq} bags.",
                "So {a} fills {eq} bags.",
                "At {bag} grams each, this gives {eq} bags.",
            ),
        ),
        ("{a} fills {answer} bags.", "There are {answer} bags."),
        words={"stuff": ("tea", "coffee", "sugar", "spice", "salt")},
    ),
)
