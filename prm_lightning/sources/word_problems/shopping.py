"""Shopping: prices, discounts, taxes and change."""

from prm_lightning.sources.word_problems.quantities import among, span
from prm_lightning.sources.word_problems.template import Template, step

TEMPLATES = (
    Template(
        "shopping/jacket",
        {
            "price": span("$", 40, 240, 4),
            "off": among("%", 10, 12.5, 15, 20, 25, 30, 40),
            "ship": span("$", 5, 36),
        },
        (
            (
                "{a} orders a {item} with a list price of {price}. The shop takes {off} off the "
                "price and charges {ship} for delivery. How much does {a} pay in all?"
            ),
            (
                "A {item} is marked {price}, but today it is {off} off. Delivery costs {ship}. "
                "What is the total that {a} pays for the delivered {item}?"
            ),
            (
                "An online store sells a {item} for {price} with a discount of {off}. If "
                "delivery is {ship}, how much must {a} pay altogether?"
            ),
        ),
        (
            step(
                "cut",
                "$",
                "price * off",
                "The discount is {eq}.",
                "The store takes {eq} off the price.",
                "{a} saves {eq} thanks to the discount.",
            ),
            step(
                "sale",
                "$",
                "price - cut",
                "So the {item} costs {eq} after the discount.",
                "The reduced price of the {item} is {eq}.",
                "That leaves a price of {eq} for the {item}.",
            ),
            step(
                "total",
                "$",
                "sale + ship",
                "With delivery, {a} pays {eq}.",
                "Adding the delivery charge gives a total of {eq}.",
                "Together with delivery this makes {eq}.",
            ),
        ),
        ("{a} pays {answer} in all.", "So the total for {a} is {answer}."),
        words={"item": ("jacket", "lamp", "backpack", "coffee maker", "desk chair")},
    ),
    Template(
        "shopping/school",
        {
            "n": span("books", 3, 12),
            "book": span("$", 1.5, 6, 0.5),
            "m": span("pens", 3, 15),
            "pen": span("$", 0.5, 3, 0.25),
            "bill": among("$", 40, 50, 60, 80, 100),
        },
        (
            (
                "{a} buys {n} notebooks at {book} each and {m} pens at {pen} each. {He} hands "
                "the cashier {bill}. How much change does {a} get?"
            ),
            (
                "For school, {a} needs {n} notebooks and {m} pens. A notebook costs {book} and a "
                "pen costs {pen}. How much of {his} {bill} will be left?"
            ),
        ),
        (
            step(
                "books",
                "$",
                "n * book",
                "The {n} notebooks cost {eq}.",
                "{a} pays {eq} for the notebooks.",
                "For {n} notebooks at {book} each that is {eq}.",
            ),
            step(
                "pens",
                "$",
                "m * pen",
                "The {m} pens cost {eq}.",
                "{a} pays {eq} for the pens.",
                "For {m} pens at {pen} each that is {eq}.",
            ),
            step(
                "total",
                "$",
                "books + pens",
                "Everything together costs {eq}.",
                "{a} spends {eq} in total.",
                "The whole purchase comes to {eq}.",
            ),
            step(
                "change",
                "$",
                "bill - total",
                "{a} has {eq} left.",
                "From {bill}, {a} keeps {eq}.",
                "The change is {eq}.",
            ),
        ),
        ("{a} gets {answer} back.", "The change is {answer}."),
    ),
    Template(
        "shopping/coupon",
        {
            "n": span("items", 2, 9),
            "price": span("$", 12, 60, 2),
            "coupon": span("$", 5, 40, 5),
            "tax": among("%", 4, 5, 6, 7.5, 10),
        },
        (
            (
                "{a} buys {n} {items} at {price} apiece and uses a coupon worth {coupon}. A "
                "sales tax of {tax} is charged on what remains after the coupon. How much does "
                "{a} pay?"
            ),
            (
                "A pack of {n} {items} is sold at {price} for each one. {a} has a {coupon} "
                "coupon, and a tax of {tax} is added after the coupon is taken off. What is the "
                "final bill?"
            ),
        ),
        (
            step(
                "sum",
                "$",
                "n * price",
                "The {n} {items} cost {eq} before the coupon.",
                "Before any reduction the bill is {eq}.",
                "At {price} apiece, the {items} come to {eq}.",
            ),
            step(
                "rest",
                "$",
                "sum - coupon",
                "After the coupon, {eq} remains.",
                "The coupon brings the bill to {eq}.",
                "With the coupon the price is {eq} before tax.",
            ),
            step(
                "duty",
                "$",
                "rest * tax",
                "The tax is {eq}.",
                "Sales tax adds {eq}.",
                "On that amount, {a} owes a tax of {eq}.",
                percentage_base="sum * tax",
            ),
            step(
                "bill",
                "$",
                "rest + duty",
                "So the final bill is {eq}.",
                "With tax, {a} pays {eq}.",
                "Price and tax together are {eq}.",
            ),
        ),
        ("{a} pays {answer}.", "The final bill is {answer}."),
        words={"items": ("towels", "board games", "plates", "scarves", "headphones")},
        needs=("sum > coupon",),
    ),
    Template(
        "shopping/packs",
        {
            "need": span("cups", 24, 240, 6),
            "per": among("packs", 6, 8, 10, 12, 15, 20),
            "price": span("$", 2, 9, 0.5),
            "each": among("$", 0.5, 0.75, 0.8, 1, 1.25),
        },
        (
            (
                "A club needs {need} {items}. They come in packs of {per} for {price} a pack, or "
                "singly for {each} each. How much does the club save by buying packs?"
            ),
            (
                "{a} has to buy {need} {items} for a fair. A pack of {per} costs {price}, a "
                "single one costs {each}. How much cheaper are the packs for the whole order?"
            ),
        ),
        (
            step(
                "packs",
                "packs",
                "need / per",
                "The order takes {eq} packs.",
                "With {per} in a pack, {eq} packs are needed.",
                "The number of packs is {eq}.",
            ),
            step(
                "bundle",
                "$",
                "packs * price",
                "The packs cost {eq}.",
                "Bought in packs, the {items} cost {eq}.",
                "At {price} a pack, this comes to {eq}.",
            ),
            step(
                "single",
                "$",
                "need * each",
                "Bought singly, the {items} would cost {eq}.",
                "The price for {need} single {items} is {eq}.",
                "Without packs the cost would be {eq}.",
            ),
            step(
                "saved",
                "$",
                "single - bundle",
                "The packs save {eq}.",
                "So the difference in price is {eq}.",
                "Buying packs is cheaper by {eq}.",
            ),
        ),
        ("The packs save {answer}.", "So {answer} is saved."),
        words={"items": ("cups", "candles", "badges", "balloons")},
        needs=("single > bundle",),
    ),
    Template(
        "shopping/two_stores",
        {
            "list": span("$", 80, 600, 20),
            "off": among("%", 10, 15, 20, 25, 30),
            "more": among("%", 5, 10, 20),
            "other": span("$", 60, 520, 10),
        },
        (
            (
                "A {item} has a list price of {list}. Store A first takes {off} off and then, "
                "for members, another {more} off the reduced price. Store B sells it for "
                "{other}. How much does {a}, a member, save at store A?"
            ),
            (
                "{a} is a member at store A, where a {item} of {list} is reduced by {off} and "
                "the reduced price once more by {more}. At store B it costs {other}. By how much "
                "is store A cheaper?"
            ),
        ),
        (
            step(
                "cut",
                "$",
                "list * off",
                "The first discount at store A is {eq}.",
                "Store A first takes off {eq}.",
            ),
            step(
                "mid",
                "$",
                "list - cut",
                "That brings the price at store A to {eq}.",
                "After it, the {item} costs {eq} at store A.",
            ),
            step(
                "cut2",
                "$",
                "mid * more",
                "The discount for members is {eq}.",
                "As a member, {a} gets a further {eq} off.",
                percentage_base="list * more",
            ),
            step(
                "low",
                "$",
                "mid - cut2",
                "At store A, {a} pays {eq}.",
                "So the member price is {eq}.",
            ),
            step(
                "saved",
                "$",
                "other - low",
                "Compared with store B, {a} saves {eq}.",
                "Store A is cheaper by {eq}.",
            ),
        ),
        ("{a} saves {answer} at store A.", "Store A is {answer} cheaper."),
        words={"item": ("tablet", "bicycle", "sofa", "camera")},
        needs=("other > low",),
    ),
    Template(
        "shopping/gym",
        {
            "fee": span("$", 20, 80, 5),
            "months": span("months", 3, 18),
            "off": among("%", 5, 10, 15, 20, 25),
            "join": span("$", 15, 90, 5),
        },
        (
            (
                "A gym charges {fee} a month plus a joining fee of {join}. {a} signs up for "
                "{months} months and gets {off} off the monthly fees, but not off the joining "
                "fee. What does {a} pay in total?"
            ),
            (
                "{a} joins a gym for {months} months. The monthly fee is {fee}, reduced by {off} "
                "for a long contract, and joining costs {join} once. How much is that "
                "altogether?"
            ),
        ),
        (
            step(
                "fees",
                "$",
                "fee * months",
                "The monthly fees add up to {eq}.",
                "For {months} months the full fees are {eq}.",
                off_by_one="months",
            ),
            step(
                "cut",
                "$",
                "fees * off",
                "The reduction is {eq}.",
                "{a} is let off {eq}.",
                percentage_base="(fees + join) * off",
            ),
            step(
                "net",
                "$",
                "fees - cut",
                "So the reduced fees are {eq}.",
                "After the reduction, the months cost {eq}.",
            ),
            step(
                "total",
                "$",
                "net + join",
                "With the joining fee, {a} pays {eq}.",
                "Adding the joining fee makes {eq}.",
            ),
        ),
        ("{a} pays {answer} in total.", "Altogether the gym costs {answer}."),
        split="validation",
    ),
    Template(
        "shopping/batteries",
        {
            "n": span("packs", 3, 24),
            "price": span("$", 2.25, 9, 0.25),
            "bill": among("$", 50, 75, 100, 150, 200),
        },
        (
            (
                "{a} buys {n} packs of {items} at {price} a pack for the office and pays with "
                "{bill} from the cash box. How much money goes back into the box?"
            ),
            (
                "For the office {a} takes {bill} along and buys {n} packs of {items}. Each pack "
                "costs {price}. How much of the money does {a} bring back?"
            ),
        ),
        (
            step(
                "cost",
                "$",
                "n * price",
                "The {n} packs cost {eq}.",
                "{a} spends {eq} on {items}.",
                "At {price} a pack the {items} cost {eq}.",
            ),
            step(
                "back",
                "$",
                "bill - cost",
                "So {a} brings back {eq}.",
                "From {bill} this leaves {eq}.",
                "The money that goes back is {eq}.",
            ),
        ),
        ("{a} brings back {answer}.", "In the end, {answer} goes back."),
        words={"items": ("batteries", "envelopes", "printer paper", "markers")},
        needs=("bill > cost",),
    ),
)
