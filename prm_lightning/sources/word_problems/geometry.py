"""Geometry: fences, floors, paths, fields, tanks and walls."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "geometry/fence",
        {
            "long": span("m", 12, 90, 1.5),
            "wide": span("m", 8, 60, 2),
            "gate": among("m", 2, 2.5, 3, 4, 5),
            "price": span("$", 6, 30, 2),
        },
        (
            (
                "A rectangular {field} is {long} m long and {wide} m wide. It gets a fence all "
                "around except for a gate of {gate} m. A metre of fence costs {price}. What does "
                "the fence cost?"
            ),
            (
                "{a} fences a {field} of {long} m by {wide} m and leaves a gap of {gate} m for a "
                "gate. At {price} a metre, how much is the fence?"
            ),
        ),
        (
            step(
                "half",
                "m",
                "long + wide",
                "Length and width together are {eq} m.",
                "Half of the way around is {eq} m.",
            ),
            step(
                "round",
                "m",
                "2 * half",
                "The perimeter is {eq} m.",
                "All the way around it is {eq} m.",
            ),
            step(
                "fence",
                "m",
                "round - gate",
                "Without the gate, {eq} m of fence are needed.",
                "The fence itself is {eq} m long.",
            ),
            step(
                "cost",
                "$",
                "fence * price",
                "So the fence costs {eq}.",
                "At {price} a metre the fence comes to {eq}.",
            ),
        ),
        ("The fence costs {answer}.", "{a} pays {answer} for the fence."),
        words={"field": ("garden", "meadow", "yard", "pasture")},
        needs=("long > wide",),
    ),
    Template(
        "geometry/floor",
        {
            "long": span("m", 4, 18, 0.5),
            "wide": span("m", 3, 12, 0.5),
            "box": among("sqm", 1.5, 2, 2.5, 3, 4),
            "price": span("$", 18, 75, 1),
        },
        (
            (
                "A floor measures {long} m by {wide} m. One box of {tiles} covers {box} square "
                "metres and costs {price}. What do the {tiles} for the floor cost?"
            ),
            (
                "{a} covers a floor, {long} m long and {wide} m wide, with {tiles}. Each box is "
                "enough for {box} square metres and costs {price}. How much does {a} pay?"
            ),
        ),
        (
            step(
                "area",
                "sqm",
                "long * wide",
                "The floor has an area of {eq} square metres.",
                "The area is {eq} square metres.",
            ),
            step("boxes", "boxes", "area / box", "This takes {eq} boxes.", "{a} needs {eq} boxes."),
            step("cost", "$", "boxes * price", "The boxes cost {eq}.", "So the {tiles} cost {eq}."),
        ),
        ("The {tiles} cost {answer}.", "{a} pays {answer}."),
        words={"tiles": ("tiles", "cork panels", "carpet squares")},
        needs=("long > wide",),
    ),
    Template(
        "geometry/path",
        {"long": span("m", 8, 40), "wide": span("m", 5, 30), "edge": span("m", 2, 5)},
        (
            (
                "A pool is {long} m long and {wide} m wide. A path {edge} m wide runs all around "
                "it. What is the area of the path in square metres?"
            ),
            (
                "Around a rectangular lawn of {long} m by {wide} m lies a path that is {edge} m "
                "wide on every side. How many square metres does the path cover?"
            ),
        ),
        (
            step(
                "outer",
                "m",
                "long + 2 * edge",
                "With the path, the length is {eq} m.",
                "The outer length is {eq} m.",
                off_by_one="long + edge",
            ),
            step(
                "across",
                "m",
                "wide + 2 * edge",
                "With the path, the width is {eq} m.",
                "The outer width is {eq} m.",
                off_by_one="wide + edge",
            ),
            step(
                "big",
                "sqm",
                "outer * across",
                "The outer rectangle has {eq} square metres.",
                "The area with the path is {eq} square metres.",
            ),
            step(
                "small",
                "sqm",
                "long * wide",
                "The inner rectangle has {eq} square metres.",
                "The area inside the path is {eq} square metres.",
            ),
            step(
                "path",
                "sqm",
                "big - small",
                "So the path covers {eq} square metres.",
                "The area of the path is {eq} square metres.",
            ),
        ),
        (
            "The path has an area of {answer} square metres.",
            "The path covers {answer} square metres.",
        ),
        needs=("long > wide",),
    ),
    Template(
        "geometry/triangle",
        {
            "base": span("m", 8, 90, 2),
            "high": span("m", 5, 60),
            "seed": span("grams", 15, 60, 5),
            "kilo": span("$", 4, 24, 2),
        },
        (
            (
                "A triangular {field} has a base of {base} m and a height of {high} m. Each "
                "square metre takes {seed} grams of seed, and a kilogram of seed costs {kilo}. "
                "What does the seed cost?"
            ),
            (
                "{a} sows a triangle of land with base {base} m and height {high} m, using "
                "{seed} grams of seed for a square metre. Seed is {kilo} a kilogram. How much "
                "does {a} spend?"
            ),
        ),
        (
            step(
                "area",
                "sqm",
                "base * high / 2",
                "The triangle has an area of {eq} square metres.",
                "The area of the {field} is {eq} square metres.",
            ),
            step(
                "grams",
                "grams",
                "area * seed",
                "This takes {eq} grams of seed.",
                "{a} needs {eq} grams of seed.",
            ),
            step(
                "kg",
                "kg",
                "grams / 1000",
                "In kilograms that is {eq}.",
                "So the seed weighs {eq} kg.",
            ),
            step(
                "cost",
                "$",
                "kg * kilo",
                "The seed costs {eq}.",
                "At {kilo} a kilogram this comes to {eq}.",
            ),
        ),
        ("The seed costs {answer}.", "{a} spends {answer} on seed."),
        words={"field": ("bed", "field", "lawn")},
    ),
    Template(
        "geometry/aquarium",
        {
            "long": span("cm", 40, 150, 10),
            "wide": span("cm", 20, 80, 5),
            "deep": span("cm", 20, 70, 5),
            "rate": among("litres", 2, 3, 4, 5, 6, 8, 10),
        },
        (
            (
                "An aquarium is {long} cm long, {wide} cm wide and is filled to a depth of "
                "{deep} cm. Water flows in at {rate} litres a minute. How many minutes does the "
                "filling take?"
            ),
            (
                "{a} fills a tank with a floor of {long} cm by {wide} cm to a depth of {deep} "
                "cm. The hose gives {rate} litres a minute. After how many minutes is {he} done?"
            ),
        ),
        (
            step(
                "floor",
                "square",
                "long * wide",
                "The floor has an area of {eq} square centimetres.",
                "The area of the floor is {eq} square centimetres.",
            ),
            step(
                "cubic",
                "cubic",
                "floor * deep",
                "The water fills {eq} cubic centimetres.",
                "Its volume is {eq} cubic centimetres.",
            ),
            step(
                "litres",
                "litres",
                "cubic / 1000",
                "This equals {eq} litres.",
                "In litres that is {eq}.",
            ),
            step(
                "wait",
                "minutes",
                "litres / rate",
                "The filling takes {eq} minutes.",
                "At {rate} litres a minute it takes {eq} minutes.",
            ),
        ),
        ("It takes {answer} minutes.", "The filling takes {answer} minutes."),
        needs=("long > wide",),
    ),
    Template(
        "geometry/walls",
        {
            "long": span("m", 4, 16, 0.5),
            "high": among("m", 2.4, 2.5, 2.8, 3, 3.5),
            "door": among("sqm", 2, 3, 4, 5, 6),
            "cover": among("sqm", 4, 5, 6, 8, 10),
            "price": span("$", 9, 40),
        },
        (
            (
                "{a} paints two walls that are each {long} m long and {high} m high. Doors take "
                "up {door} square metres and stay unpainted. A litre of paint covers {cover} "
                "square metres and costs {price}. What does the paint cost?"
            ),
            (
                "Two walls of {long} m by {high} m get new paint, apart from {door} square "
                "metres of doors. One litre at {price} is enough for {cover} square metres. How "
                "much must {a} spend?"
            ),
        ),
        (
            step(
                "one",
                "sqm",
                "long * high",
                "One wall has {eq} square metres.",
                "The area of a single wall is {eq} square metres.",
            ),
            step(
                "both",
                "sqm",
                "one * 2",
                "Both walls have {eq} square metres.",
                "For the two walls this is {eq} square metres.",
            ),
            step(
                "paint",
                "sqm",
                "both - door",
                "Without the doors, {eq} square metres are painted.",
                "The painted area is {eq} square metres.",
            ),
            step(
                "litres",
                "litres",
                "paint / cover",
                "{a} needs {eq} litres of paint.",
                "This takes {eq} litres.",
            ),
            step(
                "cost",
                "$",
                "litres * price",
                "So the paint costs {eq}.",
                "The price of the paint is {eq}.",
            ),
        ),
        ("The paint costs {answer}.", "{a} spends {answer} on paint."),
        split="validation",
    ),
    Template(
        "geometry/mowing",
        {
            "long": span("m", 20, 120, 5),
            "wide": span("m", 12, 80, 4),
            "rate": among("sqm", 150, 200, 240, 300, 400, 500),
        },
        (
            (
                "{a} has to {do} a strip of {long} m by {wide} m and manages {rate} square "
                "metres an hour. How many hours does {he} work?"
            ),
            (
                "A field is {long} m long and {wide} m wide. How many hours does {a} need to "
                "{do} it at {rate} square metres an hour?"
            ),
        ),
        (
            step(
                "area",
                "sqm",
                "long * wide",
                "The area is {eq} square metres.",
                "{a} has to {do} {eq} square metres.",
                "There are {eq} square metres to {do}.",
            ),
            step(
                "time",
                "hours",
                "area / rate",
                "So {a} works for {eq} hours.",
                "This takes {eq} hours.",
                "At {rate} square metres an hour it takes {eq} hours.",
            ),
        ),
        ("{a} works for {answer} hours.", "The work takes {answer} hours."),
        words={"do": ("mow", "plough", "weed", "rake")},
        needs=("long > wide",),
        split="validation",
    ),
)
