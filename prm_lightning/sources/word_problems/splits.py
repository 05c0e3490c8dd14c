"""Money splits: inheritances, bills, shares, profits, coins and rent."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "splits/prize",
        {
            "prize": span("$", 480, 9600, 60),
            "f": among("part", "1/2", "1/3", "1/4", "2/5", "3/8", "3/5"),
            "fee": span("$", 20, 150, 10),
            "n": span("people", 2, 8),
        },
        (
            (
                "A prize of {prize} is shared. {a} receives {f} of it, {fee} is spent on a "
                "party, and the remaining money is split evenly among {n} helpers. What does "
                "each helper get?"
            ),
            (
                "{a} wins {prize}, keeps {f} of it, and pays {fee} for a dinner. {He} divides "
                "the rest equally between {n} friends. How much does each friend receive?"
            ),
        ),
        (
            step("own", "$", "f * prize", "{a} keeps {eq}.", "The part of {a} is {eq}."),
            step(
                "rest",
                "$",
                "prize - own",
                "That leaves {eq}.",
                "After this, {eq} of the prize remains.",
            ),
            step(
                "share",
                "$",
                "rest - fee",
                "When the {fee} is paid, {eq} is left to divide.",
                "There is {eq} to be divided.",
            ),
            step(
                "each",
                "$",
                "share / n",
                "So each of the {n} gets {eq}.",
                ("Everyone receives {eq}."),
            ),
        ),
        ("Each one gets {answer}.", "So everyone receives {answer}."),
        needs=("rest > fee",),
    ),
    Template(
        "splits/restaurant",
        {
            "n": span("people", 3, 9),
            "meal": span("$", 9, 28, 0.5),
            "drinks": span("$", 12, 90, 3),
            "tip": among("%", 10, 12.5, 15, 20),
        },
        (
            (
                "{n} friends each order a meal for {meal}. Their drinks cost {drinks} together. "
                "They add a tip of {tip} to the bill and share everything equally. How much does "
                "each one pay?"
            ),
            (
                "At a restaurant {n} people eat for {meal} each and drink for {drinks} in all. "
                "With a tip of {tip} on the whole bill, what is the equal share of each person?"
            ),
        ),
        (
            step("meals", "$", "n * meal", "The meals cost {eq}.", "For the food they owe {eq}."),
            step(
                "bill",
                "$",
                "meals + drinks",
                "With the drinks the bill is {eq}.",
                "Food and drinks cost {eq}.",
            ),
            step(
                "extra",
                "$",
                "bill * tip",
                "The tip is {eq}.",
                "They tip {eq}.",
                percentage_base="meals * tip",
            ),
            step(
                "total",
                "$",
                "bill + extra",
                "In all they pay {eq}.",
                "The bill with the tip is {eq}.",
            ),
            step(
                "each",
                "$",
                "total / n",
                "So each person pays {eq}.",
                "The share of each friend is {eq}.",
            ),
        ),
        ("Each one pays {answer}.", "Everybody pays {answer}."),
    ),
    Template(
        "splits/unequal",
        {"total": span("$", 60, 900, 5), "gap": span("$", 6, 90, 2), "buy": span("$", 5, 75, 2.5)},
        (
            (
                "{a} and {b} share {total} so that {a} gets {gap} more than {b}. Then {a} buys a "
                "{item} for {buy}. How much money does {a} have left?"
            ),
            (
                "A sum of {total} is divided between {a} and {b}. {a} receives {gap} more than "
                "{b} and spends {buy} on a {item}. What is left for {a}?"
            ),
        ),
        (
            step(
                "even",
                "$",
                "total - gap",
                "Without the extra money, {eq} is shared evenly.",
                "Twice the part of {b} is {eq}.",
                relation="total + gap",
            ),
            step("less", "$", "even / 2", "So {b} gets {eq}.", "The part of {b} is {eq}."),
            step(
                "more",
                "$",
                "less + gap",
                "{a} gets {eq}.",
                "The part of {a} is {eq}.",
                relation="less - gap",
            ),
            step(
                "left",
                "$",
                "more - buy",
                "After buying the {item}, {a} has {eq}.",
                "Once the {item} is paid, {a} keeps {eq}.",
            ),
        ),
        ("{a} has {answer} left.", "So {answer} is left for {a}."),
        words={"item": ("book", "game", "shirt", "clock")},
        needs=("total > 3 * gap", "more > buy"),
    ),
    Template(
        "splits/profit",
        {
            "x": span("$", 1000, 9000, 500),
            "y": span("$", 1000, 9000, 500),
            "profit": span("$", 600, 9600, 120),
        },
        (
            (
                "{a} puts {x} into a shop and {b} puts in {y}. They share a profit of {profit} "
                "in proportion to what they put in. How much profit does {b} get?"
            ),
            (
                "Two partners invest in a shop, {a} with {x} and {b} with {y}. The profit of "
                "{profit} is shared according to the investments. What is the part of {b}?"
            ),
        ),
        (
            step("all", "$", "x + y", "Together they invest {eq}.", "The shop starts with {eq}."),
            step(
                "share",
                "%",
                "x / all",
                "{a} owns a share of {eq}.",
                "The investment of {a} is {eq} of the whole.",
                percentage_base="x / y",
            ),
            step(
                "first",
                "$",
                "profit * share",
                "So {a} gets {eq}.",
                "The part of {a} is {eq}.",
                percentage_base="all * share",
            ),
            step("second", "$", "profit - first", "{b} gets {eq}.", "That leaves {eq} for {b}."),
        ),
        ("{b} gets {answer} of the profit.", "The profit for {b} is {answer}."),
    ),
    Template(
        "splits/coins",
        {"q": span("coins", 8, 60, 2), "d": span("coins", 6, 75), "n": span("people", 2, 6)},
        (
            (
                "A jar holds {q} quarters (25 cents each) and {d} dimes (10 cents each). {a} "
                "shares the money equally among {n} children. How many dollars does each child "
                "get?"
            ),
            (
                "{a} has saved {q} quarters and {d} dimes, worth 25 and 10 cents. The money is "
                "given to {n} children in equal parts. How much is that for each child, in "
                "dollars?"
            ),
        ),
        (
            step(
                "quarters",
                "cents",
                "q * 25",
                "The quarters are worth {eq} cents.",
                "In quarters there are {eq} cents.",
            ),
            step(
                "dimes",
                "cents",
                "d * 10",
                "The dimes are worth {eq} cents.",
                "In dimes there are {eq} cents.",
            ),
            step(
                "cents",
                "cents",
                "quarters + dimes",
                "Together that is {eq} cents.",
                "The jar holds {eq} cents.",
            ),
            step(
                "money",
                "$",
                "cents / 100",
                "In dollars this is {eq}.",
                "So there is {eq} to share.",
            ),
            step(
                "each", "$", "money / n", "Each child gets {eq}.", "For every child that is {eq}."
            ),
        ),
        ("Each child gets {answer}.", "Every child receives {answer}."),
    ),
    Template(
        "splits/rent",
        {
            "rent": span("$", 900, 3000, 30),
            "power": span("$", 60, 300, 15),
            "gap": span("$", 30, 180, 15),
            "n": among("people", 3, 4, 5),
        },
        (
            (
                "{n} people share a flat. The rent is {rent} and the power bill is {power} a "
                "month. {a} has the large room and pays {gap} more than each of the others. How "
                "much does {a} pay a month?"
            ),
            (
                "In a flat for {n}, rent and power cost {rent} and {power} a month. All pay the "
                "same, but {a} pays {gap} on top for a larger room. What is the monthly payment "
                "of {a}?"
            ),
        ),
        (
            step(
                "costs",
                "$",
                "rent + power",
                "All costs together are {eq} a month.",
                "The flat costs {eq} a month.",
            ),
            step(
                "even",
                "$",
                "costs - gap",
                "Without the extra, {eq} is shared evenly.",
                "The evenly shared part is {eq}.",
                relation="costs + gap",
            ),
            step(
                "each",
                "$",
                "even / n",
                "So each of the others pays {eq}.",
                "The normal share is {eq}.",
                off_by_one="n",
            ),
            step(
                "most",
                "$",
                "each + gap",
                "{a} pays {eq}.",
                "With the larger room, the payment of {a} is {eq}.",
                relation="each - gap",
            ),
        ),
        ("{a} pays {answer} a month.", "The payment of {a} is {answer}."),
        split="validation",
    ),
    Template(
        "splits/tickets",
        {"n": span("tickets", 3, 15), "price": span("$", 8, 60, 2), "k": span("people", 2, 6)},
        (
            (
                "{a} and some friends buy {n} {tickets} at {price} each. The cost is split "
                "equally among the {k} of them who have jobs. How much does each of these pay?"
            ),
            (
                "A group orders {n} {tickets}, which cost {price} each. {k} people pay for all "
                "of them in equal parts. What is the part of each of these people?"
            ),
        ),
        (
            step(
                "cost",
                "$",
                "n * price",
                "All {tickets} together cost {eq}.",
                "The {n} {tickets} cost {eq}.",
                "The order costs {eq}.",
            ),
            step(
                "each",
                "$",
                "cost / k",
                "Each of the {k} pays {eq}.",
                "So the part of each one is {eq}.",
                "Split among {k} people that is {eq} each.",
            ),
        ),
        ("Each of them pays {answer}.", "The part of each one is {answer}."),
        words={"tickets": ("tickets", "train passes", "raffle boxes", "picnic baskets")},
    ),
)
