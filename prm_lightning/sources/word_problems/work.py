"""Work: pipes, crews, machines, shared jobs and wages."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "work/pipes",
        {"x": span("hours", 2, 30), "y": span("hours", 3, 42), "pay": span("$", 12, 48, 2)},
        (
            (
                "{a} can {job} in {x} hours, and {b} needs {y} hours for it. They work together, "
                "each at a wage of {pay} an hour. How much do the two earn with the job?"
            ),
            (
                "Alone, {a} would {job} in {x} hours and {b} in {y} hours. Each earns {pay} an "
                "hour. If they do the job together, what does it cost?"
            ),
        ),
        (
            step(
                "first",
                "part",
                "1 / x",
                "In one hour {a} does {eq} of the job.",
                "{a} manages {eq} of the job in an hour.",
            ),
            step(
                "second",
                "part",
                "1 / y",
                "In one hour {b} does {eq} of the job.",
                "{b} manages {eq} of the job in an hour.",
            ),
            step(
                "both",
                "part",
                "first + second",
                "Together they do {eq} of it in an hour.",
                "The two manage {eq} of the job in an hour.",
            ),
            step(
                "time",
                "hours",
                "1 / both",
                "So the job takes them {eq} hours.",
                "Together they need {eq} hours.",
            ),
            step(
                "rate",
                "$",
                "pay * 2",
                "The two earn {eq} an hour.",
                "Both wages together are {eq} an hour.",
            ),
            step(
                "cost",
                "$",
                "time * rate",
                "So the job pays {eq} in all.",
                "The work comes to {eq}.",
            ),
        ),
        ("The job costs {answer}.", "Together they earn {answer}."),
        words={"job": ("paint a hall", "clear a field", "repair a roof", "sort an archive")},
        needs=("y > x",),
    ),
    Template(
        "work/crew",
        {
            "n": span("workers", 3, 20),
            "days": span("days", 4, 36),
            "more": span("workers", 2, 12),
            "pay": span("$", 60, 180, 5),
        },
        (
            (
                "{n} workers would need {days} days to build a {thing}, but {more} more workers "
                "join them from the start. How much does one worker earn with the {thing} at "
                "{pay} a day?"
            ),
            (
                "A {thing} takes {n} workers {days} days. This time {more} extra workers help "
                "from the start. Each worker gets {pay} a day. How much does one worker earn?"
            ),
        ),
        (
            step(
                "load",
                "shifts",
                "n * days",
                "The {thing} takes {eq} days of work by one person.",
                "In all, {eq} working days go into the {thing}.",
            ),
            step(
                "crew",
                "workers",
                "n + more",
                "The larger crew has {eq} workers.",
                "Now there are {eq} workers.",
                relation="n * more",
            ),
            step(
                "time",
                "days",
                "load / crew",
                "They need {eq} days.",
                "So the work is done in {eq} days.",
            ),
            step(
                "earn",
                "$",
                "time * pay",
                "One worker earns {eq}.",
                "At {pay} a day that is {eq} for each worker.",
            ),
        ),
        ("One worker earns {answer}.", "Each worker gets {answer}."),
        words={"thing": ("bridge", "barn", "road", "dam")},
    ),
    Template(
        "work/machines",
        {
            "n": span("machines", 3, 14),
            "rate": span("pieces", 15, 120, 5),
            "hours": among("hours", 2.5, 4, 5, 6, 7.5, 8),
            "bad": among("%", 2, 2.5, 4, 5, 7.5, 10),
        },
        (
            (
                "A workshop has {n} machines. Each makes {rate} {things} an hour. They run for "
                "{hours} hours, and {bad} of the {things} are faulty. How many good {things} are "
                "made?"
            ),
            (
                "{n} machines turn out {rate} {things} an hour each and work {hours} hours a "
                "day. If {bad} of the output must be thrown away, how many {things} are left "
                "each day?"
            ),
        ),
        (
            step(
                "flow",
                "pieces",
                "n * rate",
                "All machines make {eq} {things} an hour.",
                "In one hour, {eq} {things} are made.",
            ),
            step(
                "made",
                "pieces",
                "flow * hours",
                "In {hours} hours that makes {eq} {things}.",
                "The output is {eq} {things}.",
            ),
            step(
                "waste",
                "pieces",
                "made * bad",
                "Of these, {eq} are faulty.",
                "The waste is {eq} {things}.",
                percentage_base="flow * bad",
            ),
            step(
                "good",
                "pieces",
                "made - waste",
                "So {eq} {things} are good.",
                "The number of good {things} is {eq}.",
            ),
        ),
        ("There are {answer} good {things}.", "In the end, {answer} {things} are good."),
        words={"things": ("screws", "bottles", "bricks", "toys")},
    ),
    Template(
        "work/handover",
        {
            "n": span("crates", 80, 720, 4),
            "x": span("crates", 6, 36),
            "y": span("crates", 5, 30),
            "days": span("hours", 2, 9),
        },
        (
            (
                "{a} and {b} have to {do} {n} crates. {a} manages {x} crates an hour and {b} "
                "manages {y}. After {days} hours together {a} leaves. How many more hours does "
                "{b} need?"
            ),
            (
                "There are {n} crates to {do}. {a} handles {x} an hour, {b} handles {y} an hour. "
                "They work side by side for {days} hours, then {b} goes on alone. How long does "
                "{b} work alone?"
            ),
        ),
        (
            step(
                "both",
                "crates",
                "x + y",
                "Together they handle {eq} crates an hour.",
                "Side by side they manage {eq} crates each hour.",
            ),
            step(
                "done",
                "crates",
                "both * days",
                "In {days} hours they finish {eq} crates.",
                "After {days} hours, {eq} crates are done.",
            ),
            step(
                "left",
                "crates",
                "n - done",
                "That leaves {eq} crates.",
                "There are {eq} crates left for {b}.",
            ),
            step(
                "alone",
                "hours",
                "left / y",
                "{b} needs {eq} more hours.",
                "Alone, {b} works for {eq} hours.",
            ),
        ),
        ("{b} needs {answer} more hours.", "So {b} works {answer} hours alone."),
        words={"do": ("unload", "pack", "label")},
        needs=("n > done",),
    ),
    Template(
        "work/overtime",
        {
            "wage": span("$", 12, 40, 2),
            "hours": span("hours", 43, 60),
            "tax": among("%", 5, 10, 15, 20, 25),
            "base": among("hours", 36, 38, 40),
        },
        (
            (
                "{a} earns {wage} an hour for the first {base} hours of a week and half as much "
                "again for each hour beyond. This week {he} worked {hours} hours. After {tax} "
                "tax, how much does {a} keep?"
            ),
            (
                "The wage of {a} is {wage} an hour. Hours beyond {base} in a week are paid one "
                "and a half times as well. {a} works {hours} hours and pays {tax} tax. What is "
                "{his} pay after tax?"
            ),
        ),
        (
            step(
                "normal",
                "$",
                "wage * base",
                "The normal hours bring {eq}.",
                "For the first {base} hours {a} gets {eq}.",
            ),
            step(
                "extra",
                "hours",
                "hours - base",
                "{a} works {eq} hours of overtime.",
                "The overtime is {eq} hours.",
            ),
            step(
                "rate",
                "$",
                "wage * 3 / 2",
                "An hour of overtime pays {eq}.",
                "The wage for overtime is {eq} an hour.",
            ),
            step(
                "bonus",
                "$",
                "extra * rate",
                "The overtime brings {eq}.",
                "For the extra hours {a} gets {eq}.",
                off_by_one="extra",
            ),
            step(
                "gross",
                "$",
                "normal + bonus",
                "Before tax {a} earns {eq}.",
                "Normal hours and overtime make {eq}.",
            ),
            step(
                "due",
                "$",
                "gross * tax",
                "The tax is {eq}.",
                "{a} has to pay {eq} in tax.",
                percentage_base="normal * tax",
            ),
            step("net", "$", "gross - due", "So {a} keeps {eq}.", "After tax this leaves {eq}."),
        ),
        ("{a} keeps {answer}.", "The pay after tax is {answer}."),
    ),
    Template(
        "work/typists",
        {
            "n": span("people", 3, 12),
            "rate": span("pages", 4, 16),
            "hours": among("hours", 3, 4, 5, 6, 7.5, 8),
            "more": span("people", 2, 7),
            "all": span("pages", 400, 2400, 20),
        },
        (
            (
                "A report of {all} pages has to be typed. On the first day {n} people type "
                "{rate} pages an hour each for {hours} hours. Then {more} more people join them "
                "at the same speed. How many hours does the rest take?"
            ),
            (
                "{n} typists work for {hours} hours, each at {rate} pages an hour, on {all} "
                "pages. For the rest, {more} typists join. How many more hours does the larger "
                "group need?"
            ),
        ),
        (
            step(
                "flow",
                "pages",
                "n * rate",
                "At first {eq} pages are typed in an hour.",
                "The first group types {eq} pages an hour.",
            ),
            step(
                "done",
                "pages",
                "flow * hours",
                "On the first day {eq} pages get done.",
                "After {hours} hours {eq} pages are typed.",
            ),
            step(
                "left",
                "pages",
                "all - done",
                "So {eq} pages remain.",
                ("There are {eq} pages left."),
            ),
            step(
                "group",
                "people",
                "n + more",
                "The larger group has {eq} people.",
                "Then {eq} people are typing.",
                relation="n * more",
            ),
            step(
                "flow2",
                "pages",
                "group * rate",
                "They type {eq} pages an hour.",
                "The larger group manages {eq} pages an hour.",
            ),
            step(
                "rest",
                "hours",
                "left / flow2",
                "The rest takes {eq} hours.",
                "They need {eq} more hours.",
            ),
        ),
        ("The rest takes {answer} hours.", "They need {answer} hours for it."),
        needs=("all > done",),
        split="validation",
    ),
)
