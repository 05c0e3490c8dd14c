r"""Numbers as people write them, and equations between them, read exactly. No text is run as code.

In: a final answer, or the text of a step. Out: fractions, and the equations that do not hold.
Read next: `answers.py`, which compares answers by their numbers.
"""

from __future__ import annotations

import ast
import operator
import re
import unicodedata
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from math import factorial
from typing import NamedTuple

NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+", re.ASCII)
LIST_MARK = re.compile(r"^[ \t]*(?:step\s+)?\d{1,3}[.:)](?=\s)", re.IGNORECASE | re.MULTILINE)
_LONGEST, _MOST_BITS, _LARGEST_FACTORIAL = 400, 20_000, 500
_PERCENT = Fraction(1, 100)
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv
}  # fmt: skip

_MARK = re.compile(r"<<([^<>\n]*)>>")
_BLANKS = re.compile(r"\\[()\[\]]|\\?[$€£]|\*\*")  # math mode, money, bold print
_SIGNS = (
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])|[×·]"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    (re.compile("[−–]"), "-"),
    (re.compile(r"(?<=[\d)%\s])[xX](?=\s*[\d.(])"), "*"),
)
_RUN = re.compile(rf"(?:(?:{NUMBER.pattern}|[-+*/()%=])[ \t]*)+", re.ASCII)
# What makes a side only a part of what is meant: before the first one, after the last one.
_UNCLEAR_BEFORE = re.compile(
    r"(?i)(?:[\w^}!√%)\]\\]|(?:\b(?:half|thirds?|quarters?|fifths?|twice|thrice|double|triple|times|of"
    r"|plus|minus|than|by|over|\d[ \t]+and)|[\^}√\\])[ \t]*)\Z"
)
_UNCLEAR_AFTER = re.compile(
    r"(?i)[ \t]*and[ \t]+\d+/\d|[a-zA-Z](?![a-zA-Z])|[\^!²³\\_{]|,\d"
    r"|[ \t]*(?:hundred|thousand|million|billion|dozen|cents?)\b"
    r"|(?:[ \t]*[a-zA-Z']+){1,3}[ \t]*[-+*/](?=[ \t]*[\d.(])"
    r"|[ \t]*[a-zA-Z](?![a-zA-Z'])"
)


class Half(NamedTuple):
    """One side of an equation: where it is in the text, and its text with plain signs."""

    start: int
    end: int
    text: str


class Equation(NamedTuple):
    """Two sides that are said to be equal, at least one of them with an operation."""

    left: Half
    right: Half


def failed_equations(text: str) -> list[str]:
    r"""The equations of a text that do not hold, as written, in the order of their right sides.

    Known are ``+ - * / x × · ÷``, parentheses, percent and dollar signs, commas between thousands,
    ``\times \cdot \div`` and the calculator marks of GSM8K, ``<<48/2=24>>``. A side next to a
    variable, a unit with more arithmetic after it, a power, or a word such as "half of" is left
    out. A side that is one number may be rounded or cut off to the digits that it shows. Where a
    text has percent signs, 5% may mean 0.05 or 5.

    >>> failed_equations("48/2 = 24 and 24 + 3 = 28, a third is 10 / 3 = 3.33")
    ['24 + 3 = 28']
    """
    return [text[e.left.start : e.right.end] for e in find_equations(text) if not holds(e)]


def holds(equation: Equation) -> bool:
    """Whether both sides are equal, up to the rounding of a side that is one number."""
    for percent in (_PERCENT, Fraction(1)):
        left, right = (evaluate(side.text, percent) for side in equation)
        if left is None or right is None:
            continue
        slack = max(_rounding(side.text, percent) for side in equation)
        difference = abs(left - right)
        if difference < slack or left == right or (difference == slack == Fraction(1, 2)):
            return True
    return False


def _rounding(side: str, percent: Fraction) -> Fraction:
    """How far a value may be from the one number of a side that shows it."""
    number = re.fullmatch(rf"({NUMBER.pattern})(%?)", side)
    if number is None:
        return Fraction(0)
    decimals = len(number[1].partition(".")[2])
    unit = Fraction(1, 10**decimals) * (percent if number[2] else 1)
    return unit if decimals else unit / 2


def find_equations(text: str) -> list[Equation]:
    """Every two neighbouring sides with values, calculator marks apart from what is around them."""
    around = _MARK.sub(lambda match: " " * len(match[0]), text)
    found = list(_equations_in(around))
    for mark in _MARK.finditer(text):
        found += _equations_in(" " * mark.start(1) + mark[1])
    return sorted(found, key=lambda equation: equation.right.end)


def _equations_in(text: str) -> Iterator[Equation]:
    if "=" not in text:
        return
    text = _plain(text)
    for run in _RUN.finditer(text):
        if "=" not in run[0]:
            continue
        sides, here = [], run.start()
        for written in run[0].split("="):
            sides.append(_strip(text, here, here + len(written)))
            here += len(written) + 1
        before = text[max(0, run.start() - 20) : run.start()]
        is_number = NUMBER.fullmatch(sides[0].text) is not None  # the 2 of "week 2 = 5 + 7"
        if _UNCLEAR_BEFORE.search(before) or (is_number and before.rstrip()[-1:].isalpha()):
            sides[0] = Half(0, 0, "")
        if _UNCLEAR_AFTER.match(text, sides[-1].end):
            sides[-1] = Half(0, 0, "")
        for left, right in pairwise(sides):
            computes = any(re.search(r"[\d)%][ \t]*[-+*/(]", side.text) for side in (left, right))
            if computes and evaluate(left.text) is not None and evaluate(right.text) is not None:
                yield Equation(left, right)


def _plain(text: str) -> str:
    """The text, as long as before, with one spelling of each sign."""
    for pattern, sign in ((LIST_MARK, ""), (_BLANKS, ""), *_SIGNS):
        for match in pattern.finditer(text):
            text = text[: match.start()] + sign.ljust(len(match[0])) + text[match.end() :]
    return text


def _strip(text: str, start: int, end: int) -> Half:
    """A side without white space, brackets that surround the whole equation, and a list's dash."""
    while start < end:
        side = text[start:end]
        opened = side.count("(") - side.count(")")
        is_first_of_line = not text[:start].rpartition("\n")[2].strip()
        is_dash = is_first_of_line and re.match(r"[-+*][ \t]", side)
        if side[0].isspace() or is_dash or (side[0] == "(" and opened > 0):
            start += 1
        elif side[-1].isspace() or (side[-1] == ")" and opened < 0):
            end -= 1
        else:
            break
    return Half(start, end, text[start:end])


def evaluate(expression: str, percent: Fraction = _PERCENT) -> Fraction | None:
    """The value of an expression; None if it is none, or divides by zero.

    Powers (``2^10``) and factorials (``5!``) are known here too.

    >>> evaluate("(1,200 + 3.5) * 2")
    Fraction(2407, 1)
    """
    if len(expression) > _LONGEST or "**" in expression or re.search("[a-zA-Z_]", expression):
        return None
    values: dict[str, Fraction] = {}

    def name(number: re.Match[str]) -> str:
        value = Fraction(number[1].replace(",", ""))
        values[f"n{len(values)}"] = value * percent if number[2] else value
        return f" n{len(values) - 1} "

    # Python's grammar has the same precedences: ^ is its **, and a postfix ! binds like .attribute
    text = re.sub(r"(?<=[\d)%!])\s*\(", "*(", " ".join(expression.split()))  # 5(2) is a product
    text = re.sub(rf"({NUMBER.pattern})(%?)", name, text, flags=re.ASCII)
    text = text.replace("^", "**").replace("!", ".factorial")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, values)
    except (SyntaxError, KeyError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr, values: dict[str, Fraction]) -> Fraction:
    match node:
        case ast.Name(name):
            return values[name]
        case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, operand):
            return _value(operand, values) * (-1 if isinstance(sign, ast.USub) else 1)
        case ast.Attribute(operand):
            number = _value(operand, values)
            if number.denominator == 1 and 0 <= number <= _LARGEST_FACTORIAL:
                return Fraction(factorial(int(number)))
        case ast.BinOp(left, sign, right):
            a, b = _value(left, values), _value(right, values)
            if type(sign) in _OPERATIONS:
                return _OPERATIONS[type(sign)](a, b)
            bits = a.numerator.bit_length() + a.denominator.bit_length()
            if isinstance(sign, ast.Pow) and b.denominator == 1 and bits * abs(b) <= _MOST_BITS:
                return Fraction(a ** int(b))
    raise ValueError("no arithmetic, or too large")


SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "lakh": 10**5, "million": 10**6,
    "crore": 10**7, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
    "quintillion": 10**18, "sextillion": 10**21, "septillion": 10**24, "googol": 10**100,
}  # fmt: skip
_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
""".split()  # noqa: SIM905
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMERALS = {word: n for n, word in enumerate(_SMALL)}
NUMERALS |= {word: 10 * n for n, word in enumerate(_TENS, start=2)}
PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12,
    "fifteenth": 15, "sixteenth": 16, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
    "millionth": 10**6, "billionth": 10**9,
}  # fmt: skip
# Words after a number that say only what is counted; plural nouns do so too.
_UNITS = """
km cm mm m ft feet foot in inch inches yd yard mile mi mph kph kmh kg g mg lb lbs oz ml l cl ounce
pound ton gram meter metre liter litre gallon cup s sec second min minute h hr hrs hour day week
month year old percent percentage degree degrees dollar usd cent euro eur gbp rs rupee yen yuan rmb
people person men women man woman children child fish sheep mice geese teeth deer oxen total
altogether overall each left remaining more extra o'clock unit square cubic sq cu page mark point
piece slice rad radian hz kb mb gb deg yds yrs
""".split()  # noqa: SIM905
# Words that change a value, so that a number followed by one of them is not that number.
_OTHER_WORDS = """
am pm a.m p.m pi squared cubed factorial factorials base bases mod modulo plus minus times over less
or to sin cos tan log ln sqrt root roots infinity power powers negative positive gross score
binary octal hexadecimal hex north south east west up down forward backward early late ahead above
below under before after ago profit loss gain debt increase decrease short many few older younger
""".split()  # noqa: SIM905
_VALUES = {*_OTHER_WORDS, *SCALES, *NUMERALS, *PARTS}
_VALUES |= {word + "s" for word in _VALUES}
_POWER = re.compile(r"\^\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MIXED = re.compile(
    r"(?<![\d.,/])(?!0)(\d+)\s*(?:and\s+)?(?:\\[dtc]?frac\s*{(\d+)}\s*{(\d+)}|(?<=\s)(\d+)\s*/\s*(\d+))"
)
_GROUPED = re.compile(
    r"(?<![\d.,])(?:\d{1,3}(?:([ '’_])\d{3}(?:\1\d{3})*|(?:\.\d{3}){2,})|\d\d?(?:,\d\d)+,\d{3})"
    r"(?![\d,])(?!\s*/)"
)
_NO_DIFFERENCE = re.compile(r"-?[\d.,]+(?:\s*-\s*[\d.,]+)+|\d+/\d+/\d+")  # ranges and dates
_SCIENTIFIC = re.compile(r"(\d+\.?\d*|\.\d+)[eE]([-+]?\d{1,4})(?![\w.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_LONG_DECIMAL = re.compile(r"-?\d*\.(\d{11,})")
_QUANTITY = re.compile(
    r"(?is)\s*(?P<sign>minus|negative)?\s*(?P<digits>[-+\d.,/*^!()%\s]*?)\s*%?\s*"
    r"(?:/(?=[a-z]{2}))?(?P<words>[a-z].*)?"
)
_SYMBOLS = str.maketrans({
    "⁄": "/", "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
    "√": r"\sqrt ", "∞": r"\infty ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "°": r"^\circ ",
})  # fmt: skip


def plain_symbols(text: str) -> str:
    """The text with plain signs in place of full-width digits, ½, ², −, ×, π and the like."""
    text = re.sub("[⁺⁻]?[⁰¹²³⁴-⁹]+", lambda m: "^{" + m[0] + "}", text)
    text = re.sub("(?=[₀-₉])(?<![₀-₉])", "_", text)
    text = unicodedata.normalize("NFKC", re.sub("([¼-¾⅐-⅞])", r" \1", text))
    return text.translate(_SYMBOLS)


def read_quantity(text: str) -> Fraction | None:
    r"""The exact value of a number, with or without currency, percent sign and unit.

    Args:
        text: digits and arithmetic, also in LaTeX, or words: ``1,234``, ``-2 1/2 km``,
            ``\frac{1}{20!}``, ``1.5 \times 10^6``, ``5 hundred thousand``, ``two and a half``.

    Returns:
        None if it is no number, or one with a word after it that is no unit.
    """
    if len(text) > _LONGEST or not re.search(r"\d|[a-z]", text, re.IGNORECASE):
        return None
    match = _QUANTITY.fullmatch(_arithmetic(plain_symbols(text)))
    if match is None:
        return None
    digits = match["digits"].strip()
    value = evaluate(digits, Fraction(1)) if digits else None
    if digits and (value is None or _NO_DIFFERENCE.fullmatch(digits)):
        return None
    if value is not None and (shown := _LONG_DECIMAL.fullmatch(digits)):
        near = value.limit_denominator(1000)  # 2.7777777777777777 is how a program shows 25/9
        value = near if near and abs(near - value) <= Fraction(2, 10 ** len(shown[1])) else value
    words = re.findall(r"[^\s/-]+", (match["words"] or "").lower())
    # 5m is a product, 5 m is a length
    glued = text.strip()[:1].isdigit() and re.search(r"(?i)[\d)}][a-z](?![a-z])", text)
    counted, rest = _count(value, words)
    if counted is None or (rest and not _are_units(rest, counted, glued=bool(glued))):
        return None
    return -counted if match["sign"] else counted


def counted(text: str) -> str:
    """The words of a number that are no numerals, in the singular; a currency is one of them."""
    words = re.findall(r"(?<![\\a-z])[a-z]{2,}|[$€£¥]", text.lower())
    return " ".join(word.removesuffix("s") for word in words if word not in _VALUES)


def _arithmetic(text: str) -> str:
    """LaTeX, powers, mixed numbers and spaces between thousands as plain arithmetic."""
    text = re.sub(r"(?i)^((?:usd|eur|gbp|inr|rs\.?)(?=\s*\d)|us(?=\\?\$))", "", text)
    text = re.sub(r"\\?[$€£₹]|¥|\\left\b|\\right\b|\\[,;:! ]|\{,\}", "", text).replace(r"\%", "%")
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*[CF]?(?![a-z])", " degrees ", text)
    text = re.sub(r"(?<=[a-z])\s*\^\s*\{?[23]\}?\s*$", "", text)  # of a unit, such as cm^2
    text = _REPEATING.sub(_repeating, text)
    text = re.sub(r"(\\[dtc]?frac)\s*(\d)\s*(\d)", r"\1{\2}{\3}", text)
    text = _MIXED.sub(lambda m: f"({m[1]}+{m[2] or m[4]}/{m[3] or m[5]})", text)
    text = _GROUPED.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    text = re.sub(r"\\(?:times|cdot)(?![a-zA-Z])|(?<=[\d)])\s*[xX](?=\s*10\^)", "*", text)
    text = re.sub(r"\\div(?![a-zA-Z])", "/", text)
    before = None
    while before != text:  # from the innermost braces outwards
        before = text
        text = _FRACTION.sub(r"((\1)/(\2))", _POWER.sub(r"^(\1)", text))
    return _SCIENTIFIC.sub(r"(\1*10^(\2))", text)


def _repeating(match: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction: (16 - 1) / 90."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    numerator = int(whole + fixed + repeated) - int(whole + fixed)
    return f"({numerator}/{(10 ** len(repeated) - 1) * 10 ** len(fixed)})"


def _count(number: Fraction | None, words: list[str]) -> tuple[Fraction | None, list[str]]:
    """The value of a number, if any, with the numerals after it, and the words that are left."""
    total, held, spoken = Fraction(0), Fraction(0), False  # complete thousands; before "and"

    def joins(after: Fraction) -> bool:  # 2 and 1/2 are one number, 2 and 3 are not
        zeros = 100 if after < 100 else 1000 ** ((len(str(int(after))) + 2) // 3)
        return after < 1 or not held or (spoken and held % zeros == 0)

    for i, word in enumerate(words):
        singular = word.removesuffix("s")
        following = words[i + 1] if i + 1 < len(words) else ""
        free = 10 if number and NUMERALS.get(word, 10) < 10 < number % 100 else 100
        if word in NUMERALS and (number is None or number % free == 0):
            number = (number or Fraction(0)) + NUMERALS[word]
        elif word in ("a", "an") and number is None and following in {*SCALES, *PARTS}:
            number = Fraction(1)
        elif word in ("a", "an") and number == Fraction(1, 2) and following in SCALES:
            continue
        elif word == "half" and number is None:
            number = Fraction(1, 2)
        elif singular in SCALES and number is not None:
            scale = SCALES[singular]
            apart = number >= 1 and (held >= 1000 or scale < 1000)  # two thousand and five hundred
            if not joins(number * scale if apart else number):
                return None, words
            total += held * apart
            number, held = (number + held * (not apart)) * scale, Fraction(0)
            if scale >= 1000 and (following in NUMERALS or following.isdigit()):
                total, number = total + number, None
        elif number is not None and (word in PARTS or singular in PARTS):
            number /= PARTS.get(word) or PARTS[singular]
        elif word == "and" and number and number >= 1 == number.denominator and not held:
            held, number, spoken = number, None, i > 0
        elif number is None and re.fullmatch(r"\d+|\(\d+/\d+\)", word):
            number = evaluate(word)
        else:
            break
    else:
        i = len(words)
    last = number or Fraction(0)
    if (number is None and (held or not total)) or not joins(last):
        return None, words
    return total + held + last, words[i:]


def _are_units(words: list[str], value: Fraction, *, glued: bool) -> bool:
    """Whether words after a number say only what is counted."""
    bare = [re.sub(r"\^?\{?[23²³]\}?$|\.$", "", word) for word in words]
    if any(word in _VALUES or not re.fullmatch(r"[a-z'’.^{}]+", word) for word in bare):
        return False
    return not (glued and len(bare[0]) == 1) and any(
        word in _UNITS
        or (len(word) > 3 and word.endswith("s") and not word.endswith("ss"))
        or (abs(value) <= 1 and len(word) > 2)
        for word in bare
    )
