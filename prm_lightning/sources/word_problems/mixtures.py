"""Mixtures and ratios: paint, juice, recipes, nuts and classes."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "mixtures/paint",
        {
            "r": span("parts", 2, 9),
            "s": span("parts", 2, 9),
            "total": span("litres", 12, 150, 1.5),
            "price": span("$", 3, 18, 0.5),
        },
        (
            (
                "A {color} paint is mixed from {r} parts of base and {s} parts of pigment. {a} "
                "needs {total} litres. Pigment costs {price} a litre. What does the pigment "
                "cost?"
            ),
            (
                "To mix {total} litres of {color} paint, {a} takes base and pigment in the ratio "
                "{r} : {s}. How much must {he} pay for the pigment at {price} a litre?"
            ),
        ),
        (
            step(
                "parts",
                "parts",
                "r + s",
                "The mixture has {eq} parts.",
                "Altogether there are {eq} parts.",
            ),
            step(
                "one",
                "litres",
                "total / parts",
                "One part is {eq} litres.",
                "So each part holds {eq} litres.",
                relation="total / s",
            ),
            step(
                "pigment",
                "litres",
                "one * s",
                "The pigment takes {eq} litres.",
                "{a} needs {eq} litres of pigment.",
                relation="one * r",
            ),
            step(
                "cost",
                "$",
                "pigment * price",
                "The pigment costs {eq}.",
                "At {price} a litre the pigment comes to {eq}.",
            ),
        ),
        ("The pigment costs {answer}.", "{a} pays {answer} for the pigment."),
        words={"color": ("green", "violet", "grey", "turquoise")},
    ),
    Template(
        "mixtures/juice",
        {
            "v": span("litres", 2, 40),
            "p": among("%", 10, 20, 25, 30, 40, 50),
            "w": span("litres", 2, 40),
            "q": among("%", 40, 50, 60, 75, 90),
        },
        (
            (
                "{a} mixes {v} litres of a drink with {p} juice and {w} litres of a drink with "
                "{q} juice. What percentage of the mixture is juice?"
            ),
            (
                "A bowl gets {v} litres of lemonade containing {p} juice and {w} litres of punch "
                "containing {q} juice. How much juice, in percent, does the mix contain?"
            ),
        ),
        (
            step(
                "first",
                "litres",
                "v * p",
                "The first drink brings {eq} litres of juice.",
                "There are {eq} litres of juice in the first drink.",
                percentage_base="w * p",
            ),
            step(
                "second",
                "litres",
                "w * q",
                "The second drink brings {eq} litres of juice.",
                "There are {eq} litres of juice in the second drink.",
                percentage_base="v * q",
            ),
            step(
                "juice",
                "litres",
                "first + second",
                "The mixture contains {eq} litres of juice.",
                "All the juice together is {eq} litres.",
            ),
            step(
                "all",
                "litres",
                "v + w",
                "The volume of the mixture is {eq} litres.",
                "Together the drinks make {eq} litres.",
            ),
            step(
                "share",
                "%",
                "juice / all",
                "So the share of juice is {eq}.",
                "This means a juice content of {eq}.",
                percentage_base="juice / w",
            ),
        ),
        ("The mixture is {answer} juice.", "Its share of juice is {answer}."),
    ),
    Template(
        "mixtures/recipe",
        {
            "g": span("grams", 120, 900, 20),
            "k": span("people", 2, 8),
            "n": span("people", 5, 36),
            "have": span("grams", 100, 1000, 50),
        },
        (
            (
                "A recipe for {k} people takes {g} grams of {stuff}. {a} cooks for {n} people "
                "and has {have} grams at home. How many grams must {a} buy?"
            ),
            (
                "{a} wants to cook for {n} guests with a recipe that uses {g} grams of {stuff} "
                "for {k} people. If {have} grams are in the cupboard, how many grams are "
                "missing?"
            ),
        ),
        (
            step(
                "each",
                "grams",
                "g / k",
                "Each person needs {eq} grams of {stuff}.",
                "For one person that is {eq} grams.",
            ),
            step(
                "need",
                "grams",
                "each * n",
                "For {n} people, {a} needs {eq} grams.",
                "All the guests need {eq} grams of {stuff}.",
            ),
            step(
                "buy",
                "grams",
                "need - have",
                "So {a} must buy {eq} grams.",
                "What is missing is {eq} grams.",
            ),
        ),
        ("{a} must buy {answer} grams of {stuff}.", "So {answer} grams are missing."),
        words={"stuff": ("rice", "flour", "lentils", "pasta")},
        needs=("need > have", "n > k"),
    ),
    Template(
        "mixtures/nuts",
        {
            "m": among("kg", 1.5, 2, 2.5, 3, 4, 5, 6),
            "p": span("$", 6, 18, 0.5),
            "n": among("kg", 1.5, 2, 3, 3.5, 4, 5),
            "q": span("$", 3, 15, 0.5),
        },
        (
            (
                "A grocer mixes {m} kg of {x} at {p} a kilogram with {n} kg of {y} at {q} a "
                "kilogram. What is the price of one kilogram of the mix?"
            ),
            (
                "{a} blends {m} kg of {x} ({p} per kg) and {n} kg of {y} ({q} per kg). How much "
                "should a kilogram of the blend cost?"
            ),
        ),
        (
            step("first", "$", "m * p", "The {x} cost {eq}.", "For the {x}, that is {eq}."),
            step("second", "$", "n * q", "The {y} cost {eq}.", "For the {y}, that is {eq}."),
            step(
                "value",
                "$",
                "first + second",
                "The whole mix is worth {eq}.",
                "Together they cost {eq}.",
            ),
            step(
                "weight", "kg", "m + n", "The mix weighs {eq} kg.", "The total weight is {eq} kg."
            ),
            step(
                "price",
                "$",
                "value / weight",
                "So one kilogram costs {eq}.",
                "The price of a kilogram is {eq}.",
            ),
        ),
        ("A kilogram of the mix costs {answer}.", "The price per kilogram is {answer}."),
        words={"x": ("almonds", "cashews", "pistachios"), "y": ("raisins", "peanuts", "oats")},
        needs=("p > q",),
    ),
    Template(
        "mixtures/class",
        {
            "girls": span("girls", 12, 90, 3),
            "r": span("parts", 2, 7),
            "s": span("parts", 2, 9),
            "size": span("children", 5, 15),
        },
        (
            (
                "In a school choir the ratio of girls to boys is {r} : {s}, and there are "
                "{girls} girls. The choir rehearses in groups of {size}. How many groups are "
                "there?"
            ),
            (
                "A camp has {r} girls for every {s} boys. {girls} girls take part, and all the "
                "children are put into teams of {size}. How many teams can be made?"
            ),
        ),
        (
            step(
                "one",
                "children",
                "girls / r",
                "One part of the ratio is {eq} children.",
                "Each part stands for {eq} children.",
                relation="girls / s",
            ),
            step(
                "boys",
                "children",
                "one * s",
                "So there are {eq} boys.",
                "The number of boys is {eq}.",
            ),
            step(
                "all",
                "children",
                "girls + boys",
                "All together there are {eq} children.",
                "Girls and boys make {eq} children.",
            ),
            step(
                "groups",
                "groups",
                "all / size",
                "That gives {eq} groups.",
                "Divided into groups of {size}, they form {eq} groups.",
            ),
        ),
        ("There are {answer} groups.", "The number of groups is {answer}."),
    ),
    Template(
        "mixtures/alloy",
        {
            "mass": span("kg", 12, 160, 4),
            "p": among("%", 15, 20, 25, 30, 40, 60),
            "zinc": span("kg", 2, 40),
            "price": span("$", 2, 9, 0.5),
        },
        (
            (
                "An alloy of {mass} kg contains {p} copper, and the rest is zinc. A smith melts "
                "in {zinc} kg more zinc. Zinc is worth {price} a kilogram. What is all the zinc "
                "in it worth?"
            ),
            (
                "A block of brass weighs {mass} kg, of which {p} is copper and the rest zinc. "
                "After {zinc} kg of zinc are added, what is the value of its zinc at {price} a "
                "kilogram?"
            ),
        ),
        (
            step(
                "copper",
                "kg",
                "mass * p",
                "The alloy holds {eq} kg of copper.",
                "Its copper weighs {eq} kg.",
                percentage_base="(mass + zinc) * p",
            ),
            step(
                "rest",
                "kg",
                "mass - copper",
                "So at first it holds {eq} kg of zinc.",
                "The zinc in it weighs {eq} kg.",
            ),
            step(
                "more",
                "kg",
                "rest + zinc",
                "With the added metal there are {eq} kg of zinc.",
                "Afterwards the zinc weighs {eq} kg.",
            ),
            step(
                "worth",
                "$",
                "more * price",
                "The zinc is worth {eq}.",
                "At {price} a kilogram this is {eq}.",
            ),
        ),
        ("All the zinc is worth {answer}.", "The value of the zinc is {answer}."),
        split="validation",
    ),
)
