"""Percentages: growth, shares, interest and reversed discounts."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "percentages/town",
        {
            "start": span("people", 1200, 9600, 200),
            "grow": among("%", 2.5, 4, 5, 12.5, 15, 20),
            "leave": span("people", 30, 480, 10),
        },
        (
            (
                "A {town} had {start} residents. During one year the number grew by {grow}, and "
                "then {leave} people moved away. How many residents are there now?"
            ),
            (
                "At the beginning of the year {start} people lived in a {town}. The population "
                "rose by {grow} before {leave} people left. How many people live there in the "
                "end?"
            ),
        ),
        (
            step(
                "new",
                "people",
                "start * grow",
                "The growth is {eq} people.",
                "The {town} gained {eq} residents.",
                "The rise amounts to {eq} people.",
                percentage_base="(start - leave) * grow",
            ),
            step(
                "peak",
                "people",
                "start + new",
                "So the population rose to {eq}.",
                "With them, the {town} had {eq} residents.",
                "That makes {eq} people before anyone left.",
            ),
            step(
                "now",
                "people",
                "peak - leave",
                "After the departures, {eq} residents remain.",
                "Now {eq} people live there.",
                "The number of residents at the end is {eq}.",
            ),
        ),
        ("There are now {answer} residents.", "In the end, {answer} people live in the {town}."),
        words={"town": ("town", "village", "suburb")},
    ),
    Template(
        "percentages/exam",
        {
            "n": span("questions", 20, 80, 5),
            "p": among("%", 40, 50, 60, 75, 80, 90),
            "m": span("questions", 20, 80, 5),
            "q": among("%", 25, 40, 50, 60, 70, 80),
        },
        (
            (
                "An exam has {n} short questions and {m} long ones. {a} answers {p} of the short "
                "questions and {q} of the long ones correctly. What percentage of all questions "
                "does {a} get right?"
            ),
            (
                "{a} gets {p} of {n} short questions and {q} of {m} long questions right. What "
                "share of the whole exam, in percent, is that?"
            ),
        ),
        (
            step(
                "short",
                "questions",
                "n * p",
                "{a} gets {eq} short questions right.",
                "Among the short questions, {eq} answers are right.",
                percentage_base="m * p",
            ),
            step(
                "long",
                "questions",
                "m * q",
                "{a} gets {eq} long questions right.",
                "Among the long questions, {eq} answers are right.",
                percentage_base="n * q",
            ),
            step(
                "right",
                "questions",
                "short + long",
                "The right answers number {eq} in all.",
                "Altogether {eq} questions are answered correctly.",
            ),
            step(
                "all",
                "questions",
                "n + m",
                "The exam has {eq} questions in all.",
                "In total there are {eq} questions.",
            ),
            step(
                "share",
                "%",
                "right / all",
                "So the share of right answers is {eq}.",
                "This means that {a} got {eq} of the exam right.",
                percentage_base="right / n",
            ),
        ),
        ("{a} gets {answer} of the questions right.", "The share is {answer}."),
    ),
    Template(
        "percentages/salary",
        {
            "pay": span("$", 2000, 5200, 100),
            "more": among("%", 4, 5, 8, 10, 12.5),
            "tax": among("%", 10, 15, 20, 25, 30),
            "rent": span("$", 600, 1500, 50),
        },
        (
            (
                "{a} earns {pay} a month and gets a raise of {more}. Of the new salary, {tax} "
                "goes to taxes, and the rent is {rent}. How much money does {a} have left each "
                "month?"
            ),
            (
                "The monthly salary of {a} is {pay} and goes up by {more}. {He} pays {tax} of "
                "the raised salary as tax and {rent} as rent. What remains each month?"
            ),
        ),
        (
            step(
                "gain",
                "$",
                "pay * more",
                "The raise is worth {eq}.",
                ("The salary goes up by {eq}."),
            ),
            step(
                "new",
                "$",
                "pay + gain",
                "So the new salary is {eq}.",
                "From now on, {a} earns {eq} a month.",
            ),
            step(
                "due",
                "$",
                "new * tax",
                "The tax on it is {eq}.",
                "{a} pays {eq} in taxes.",
                percentage_base="pay * tax",
            ),
            step(
                "net",
                "$",
                "new - due",
                "After taxes, {eq} is left.",
                "The salary after tax is {eq}.",
            ),
            step(
                "rest",
                "$",
                "net - rent",
                "When the rent is paid, {eq} remains.",
                "Taking away the rent leaves {eq}.",
            ),
        ),
        ("{a} has {answer} left each month.", "What remains is {answer}."),
        needs=("net > rent",),
    ),
    Template(
        "percentages/concert",
        {
            "seats": span("seats", 200, 2400, 40),
            "online": among("%", 25, 35, 40, 50, 55, 60, 62.5),
            "door": among("part", "1/2", "1/3", "2/3", "1/4", "3/4", "3/5"),
        },
        (
            (
                "A hall has {seats} seats. Of these, {online} are sold online, and {door} of the "
                "remaining seats are sold at the door. How many seats stay empty?"
            ),
            (
                "For a concert with {seats} seats, {online} of the tickets go online. At the "
                "door {door} of the rest are sold. How many seats are left empty?"
            ),
        ),
        (
            step(
                "early",
                "seats",
                "seats * online",
                "Online, {eq} seats are sold.",
                "The online sale takes {eq} seats.",
            ),
            step(
                "rest",
                "seats",
                "seats - early",
                "That leaves {eq} seats for the door.",
                "After the online sale, {eq} seats remain.",
            ),
            step(
                "late",
                "seats",
                "door * rest",
                "At the door, {eq} seats are sold.",
                "The door sells {eq} more seats.",
                percentage_base="door * seats",
            ),
            step(
                "empty",
                "seats",
                "rest - late",
                "So {eq} seats stay empty.",
                "The number of empty seats is {eq}.",
            ),
        ),
        ("In the end, {answer} seats stay empty.", "At the end, {answer} seats are left empty."),
    ),
    Template(
        "percentages/before_sale",
        {
            "off": among("%", 10, 15, 20, 25, 30, 35, 40),
            "sale": span("$", 27, 480, 3),
            "coupon": span("$", 5, 60, 5),
        },
        (
            (
                "In a sale with {off} off, a {item} costs {sale}. {a} also has a voucher for "
                "{coupon}. How much less than the original price does {a} pay?"
            ),
            (
                "{a} buys a {item} that costs {sale} after a price cut of {off}, and pays with a "
                "voucher worth {coupon} and cash. How much does {a} save against the original "
                "price in all?"
            ),
        ),
        (
            step(
                "left",
                "%",
                "1 - off",
                "The sale price is {eq} of the original price.",
                "What is paid in the sale is {eq} of the old price.",
            ),
            step(
                "old",
                "$",
                "sale / left",
                "So the original price was {eq}.",
                "Before the sale, the {item} cost {eq}.",
                percentage_base="sale * (1 + off)",
            ),
            step(
                "paid",
                "$",
                "sale - coupon",
                "With the voucher, {a} pays {eq} in cash.",
                "The voucher lowers the sale price to {eq}.",
            ),
            step(
                "saved",
                "$",
                "old - paid",
                "So {a} saves {eq} in all.",
                "Against the original price that is {eq} less.",
            ),
        ),
        ("{a} pays {answer} less than the original price.", "The saving is {answer}."),
        words={"item": ("watch", "suitcase", "mixer", "carpet")},
        needs=("sale > coupon",),
    ),
    Template(
        "percentages/interest",
        {
            "put": span("$", 400, 8000, 200),
            "rate": among("%", 1.5, 2, 2.5, 3, 4, 5),
            "years": span("years", 2, 9),
            "spend": span("$", 50, 900, 25),
        },
        (
            (
                "{a} puts {put} into an account that pays {rate} simple interest a year. After "
                "{years} years {he} takes out {spend}. How much is left in the account?"
            ),
            (
                "An account earns {rate} simple interest each year on the first deposit only. "
                "{a} deposits {put}, waits {years} years and then spends {spend} of it. What is "
                "the balance now?"
            ),
        ),
        (
            step(
                "yearly",
                "$",
                "put * rate",
                "Each year brings interest of {eq}.",
                "The interest for one year is {eq}.",
            ),
            step(
                "interest",
                "$",
                "yearly * years",
                "Over {years} years the interest is {eq}.",
                "In all, {a} earns {eq} in interest.",
                off_by_one="years",
            ),
            step(
                "grown",
                "$",
                "put + interest",
                "The account grows to {eq}.",
                "So before the withdrawal it holds {eq}.",
            ),
            step(
                "left",
                "$",
                "grown - spend",
                "After the withdrawal, {eq} is left.",
                "The balance is then {eq}.",
            ),
        ),
        ("The account now holds {answer}.", "There is {answer} left in the account."),
        needs=("grown > spend",),
        split="validation",
    ),
    Template(
        "percentages/library",
        {
            "books": span("books", 240, 6000, 40),
            "out": among("%", 5, 12.5, 15, 25, 30, 35, 45, 62.5),
        },
        (
            (
                "A library owns {books} {things}. At the moment {out} of them are lent out. How "
                "many {things} are on the shelves?"
            ),
            (
                "Of the {books} {things} in a library, {out} are with readers and the others are "
                "on the shelves. How many are on the shelves?"
            ),
        ),
        (
            step(
                "lent",
                "books",
                "books * out",
                "The readers have {eq} {things}.",
                "At the moment {eq} {things} are lent out.",
                "So {eq} {things} are with readers.",
            ),
            step(
                "here",
                "books",
                "books - lent",
                "On the shelves there are {eq} {things}.",
                "The library has {eq} {things} on the shelves.",
                "So {eq} {things} are not lent out.",
            ),
        ),
        ("There are {answer} {things} on the shelves.", "On the shelves are {answer} {things}."),
        words={"things": ("books", "films", "maps", "records")},
    ),
)
