"""Rates and time: journeys, tanks, reading and timetables."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "travel/two_legs",
        {
            "v": span("kmh", 40, 110, 5),
            "t": among("hours", 1.5, 2, 2.5, 3, 4, 5),
            "w": span("kmh", 30, 95, 5),
            "u": among("hours", 1.5, 2, 3, 3.5, 4),
        },
        (
            (
                "{a} drives for {t} hours at {v} km/h and then for {u} hours at {w} km/h. What "
                "is the average speed of the whole trip in km/h?"
            ),
            (
                "A {thing} travels at {v} km/h for {t} hours, then at {w} km/h for another {u} "
                "hours. What is its average speed in km/h?"
            ),
        ),
        (
            step(
                "first",
                "km",
                "v * t",
                "The first part is {eq} km long.",
                "In the first {t} hours, {eq} km are covered.",
            ),
            step(
                "second",
                "km",
                "w * u",
                "The second part is {eq} km long.",
                "In the next {u} hours, {eq} km are covered.",
            ),
            step(
                "way",
                "km",
                "first + second",
                "The whole way is {eq} km.",
                "Together the two parts make {eq} km.",
            ),
            step(
                "time",
                "hours",
                "t + u",
                "The trip takes {eq} hours.",
                "The total time is {eq} hours.",
            ),
            step(
                "mean",
                "kmh",
                "way / time",
                "So the average speed is {eq} km/h.",
                "On average that is {eq} km in an hour.",
            ),
        ),
        ("The average speed is {answer} km/h.", "On average the speed is {answer} km/h."),
        words={"thing": ("truck", "coach", "train")},
        needs=("v > w",),
    ),
    Template(
        "travel/meeting",
        {"gap": span("km", 60, 720, 15), "v": span("kmh", 12, 90, 3), "w": span("kmh", 9, 80, 3)},
        (
            (
                "Two {things} start {gap} km apart and move toward each other, one at {v} km/h "
                "and the other at {w} km/h. How many kilometres has the faster one covered when "
                "they meet?"
            ),
            (
                "{a} and {b} live {gap} km apart and set out toward each other at the same time. "
                "{a} moves at {v} km/h, {b} at {w} km/h. How far from the home of {a} do they "
                "meet, in km?"
            ),
        ),
        (
            step(
                "close",
                "kmh",
                "v + w",
                "They come closer by {eq} km each hour.",
                "The gap shrinks at {eq} km/h.",
            ),
            step(
                "time",
                "hours",
                "gap / close",
                "So they meet after {eq} hours.",
                "The time until they meet is {eq} hours.",
            ),
            step(
                "far",
                "km",
                "v * time",
                "By then the one at {v} km/h has covered {eq} km.",
                "At {v} km/h this is a way of {eq} km.",
                relation="w * time",
            ),
        ),
        ("The answer is {answer} km.", "That is {answer} km."),
        words={"things": ("cyclists", "trains", "boats")},
        needs=("v > w",),
    ),
    Template(
        "travel/tank",
        {
            "full": span("litres", 300, 2400, 50),
            "start": span("litres", 50, 600, 25),
            "into": span("litres", 12, 60, 2),
            "out": span("litres", 3, 30),
        },
        (
            (
                "A tank holds {full} litres and already contains {start} litres. A pump fills in "
                "{into} litres a minute while {out} litres a minute leak out. How many minutes "
                "does it take to fill the tank?"
            ),
            (
                "Water runs into a {full}-litre tank at {into} litres a minute, and a leak loses "
                "{out} litres a minute. If {start} litres are in it now, after how many minutes "
                "is the tank full?"
            ),
        ),
        (
            step(
                "room",
                "litres",
                "full - start",
                "There is still room for {eq} litres.",
                "The tank needs {eq} more litres.",
            ),
            step(
                "net",
                "litres",
                "into - out",
                "Each minute the tank gains {eq} litres.",
                "With the leak, the level rises by {eq} litres a minute.",
            ),
            step(
                "wait",
                "minutes",
                "room / net",
                "So it takes {eq} minutes to fill it.",
                "The tank is full after {eq} minutes.",
            ),
        ),
        ("It takes {answer} minutes.", "The tank is full after {answer} minutes."),
        needs=("full > start", "into > out"),
    ),
    Template(
        "travel/reading",
        {
            "pages": span("pages", 180, 900, 10),
            "slow": span("pages", 12, 40, 2),
            "days": span("days", 3, 14),
            "faster": span("pages", 4, 25),
        },
        (
            (
                "{a} reads a book of {pages} pages. For the first {days} days {he} reads {slow} "
                "pages a day, and after that {faster} pages more each day than before. How many "
                "days does {a} need for the whole book?"
            ),
            (
                "A book has {pages} pages. {a} starts with {slow} pages a day for {days} days, "
                "then adds {faster} pages to {his} daily amount. After how many days in all is "
                "the book finished?"
            ),
        ),
        (
            step(
                "done",
                "pages",
                "slow * days",
                "In the first {days} days, {a} reads {eq} pages.",
                "The slow days cover {eq} pages.",
                off_by_one="days",
            ),
            step(
                "left",
                "pages",
                "pages - done",
                "That leaves {eq} pages.",
                "There are still {eq} pages to read.",
            ),
            step(
                "fast",
                "pages",
                "slow + faster",
                "From then on {he} reads {eq} pages a day.",
                "The new daily amount is {eq} pages.",
                relation="slow * faster",
            ),
            step(
                "rest",
                "days",
                "left / fast",
                "The rest takes {eq} days.",
                "{He} needs {eq} more days.",
            ),
            step(
                "all",
                "days",
                "days + rest",
                "So the whole book takes {eq} days.",
                "In all that makes {eq} days.",
            ),
        ),
        ("{a} needs {answer} days for the book.", "The book is finished after {answer} days."),
        needs=("pages > done",),
    ),
    Template(
        "travel/commute",
        {
            "far": span("km", 6, 60, 2),
            "speed": among("kmh", 12, 15, 18, 20, 24, 30, 40),
            "days": span("days", 3, 24),
            "pause": span("minutes", 5, 25, 5),
        },
        (
            (
                "{a} cycles {far} km to work at {speed} km/h and takes one break of {pause} "
                "minutes on the way. How many minutes does {a} spend on {days} trips to work?"
            ),
            (
                "The way to work is {far} km. {a} rides at {speed} km/h and always rests for "
                "{pause} minutes. How many minutes do {days} such rides take?"
            ),
        ),
        (
            step(
                "hours",
                "hours",
                "far / speed",
                "One ride takes {eq} hours without the break.",
                "Riding alone takes {eq} hours.",
            ),
            step(
                "ride",
                "minutes",
                "hours * 60",
                "In minutes that is {eq}.",
                "This is {eq} minutes of riding.",
            ),
            step(
                "trip",
                "minutes",
                "ride + pause",
                "With the break, one trip takes {eq} minutes.",
                "Each trip lasts {eq} minutes with the rest.",
            ),
            step(
                "all",
                "minutes",
                "trip * days",
                "So {days} trips take {eq} minutes.",
                "In total {a} spends {eq} minutes.",
                off_by_one="days",
            ),
        ),
        (
            "In {days} trips, {a} spends {answer} minutes.",
            "The {days} trips take {answer} minutes.",
        ),
    ),
    Template(
        "travel/bus",
        {
            "far": span("km", 40, 480, 10),
            "speed": among("kmh", 40, 50, 60, 75, 80, 100),
            "stops": span("stops", 2, 12),
            "wait": span("minutes", 2, 12),
        },
        (
            (
                "A bus drives {far} km at an average of {speed} km/h while it moves, and halts "
                "{stops} times for {wait} minutes each. How many minutes does the journey take?"
            ),
            (
                "On its route of {far} km a bus makes {stops} stops of {wait} minutes. Between "
                "stops it averages {speed} km/h. How long is the journey in minutes?"
            ),
        ),
        (
            step(
                "hours",
                "hours",
                "far / speed",
                "Driving takes {eq} hours.",
                "The bus is moving for {eq} hours.",
            ),
            step(
                "drive",
                "minutes",
                "hours * 60",
                "This equals {eq} minutes.",
                "In minutes, the driving time is {eq}.",
            ),
            step(
                "halt",
                "minutes",
                "stops * wait",
                "All stops together take {eq} minutes.",
                "The bus stands still for {eq} minutes.",
                off_by_one="stops",
            ),
            step(
                "all",
                "minutes",
                "drive + halt",
                "So the journey takes {eq} minutes.",
                "Driving and stops come to {eq} minutes.",
            ),
        ),
        ("The journey takes {answer} minutes.", "In all, the bus needs {answer} minutes."),
        split="validation",
    ),
    Template(
        "travel/return",
        {
            "v": span("kmh", 30, 110, 5),
            "t": among("hours", 1.5, 2, 2.5, 3, 4, 4.5),
            "w": span("kmh", 30, 110, 5),
        },
        (
            (
                "{a} drives to {place} in {t} hours at {v} km/h. In bad weather {he} drives back "
                "at {w} km/h. How many hours does the way back take?"
            ),
            (
                "The way to {place} takes {a} {t} hours at a speed of {v} km/h. On the way back "
                "the speed is {w} km/h. How long, in hours, is the way back?"
            ),
        ),
        (
            step(
                "far",
                "km",
                "v * t",
                "The way to {place} is {eq} km long.",
                "One way is {eq} km.",
                "{a} has driven {eq} km on the way there.",
            ),
            step(
                "back",
                "hours",
                "far / w",
                "So the way back takes {eq} hours.",
                "At {w} km/h the way back lasts {eq} hours.",
                "The drive back takes {eq} hours.",
            ),
        ),
        ("The way back takes {answer} hours.", "{a} needs {answer} hours for the way back."),
        words={"place": ("the coast", "the lake", "the airport", "the fair")},
        needs=("v > w",),
    ),
)
