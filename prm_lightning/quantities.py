r"""Numbers as people and models write them, read exactly: digits, LaTeX, words, scales, units.

In: a final answer. Out: a fraction, or the key of a time of day or of a number in another base.
Read next: `answers.py`, which compares answers by them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable
from fractions import Fraction

from prm_lightning.equations import evaluate

_SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "lakh": 10**5, "million": 10**6,
    "crore": 10**7, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
    "quintillion": 10**18, "googol": 10**100,
}  # fmt: skip
_SMALL_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
"""
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL, _TENS = _SMALL_WORDS.split(), _TENS_WORDS.split()
_NUMERALS = {
    **{word: n for n, word in enumerate(_SMALL)},
    **{word: 10 * n for n, word in enumerate(_TENS, start=2)},
}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12,
    "fifteenth": 15, "sixteenth": 16, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
    "millionth": 10**6, "billionth": 10**9,
}  # fmt: skip
# Words after a number that say only what is counted; plural nouns do so too.
_UNIT_WORDS = """
km cm mm m ft feet foot in inch inches yd yard mile mi mph kph kmh kg g mg lb lbs oz ml l cl ounce
pound ton gram meter metre liter litre gallon cup s sec second min minute h hr hrs hour day week
month year old percent percentage degree degrees dollar usd cent euro eur gbp rs rupee yen yuan rmb
people person men women man woman children child fish sheep mice geese teeth deer oxen total
altogether overall each left remaining more extra o'clock unit square cubic sq cu page mark point
piece slice rad radian hz kb mb gb
"""
_UNITS = frozenset(_UNIT_WORDS.split())
# Words that change a value, so that a number followed by one of them is not that number.
_OTHER_WORDS = """
am pm a.m p.m pi squared cubed factorial factorials base bases mod modulo plus minus times over less
or to sin cos tan log ln sqrt root roots infinity power powers negative positive gross score
"""
_VALUES = {*_OTHER_WORDS.split(), *_SCALES, *_NUMERALS, *_PARTS}
_VALUES |= {word + "s" for word in _VALUES}

_SCALE = "|".join(_SCALES)
_PART = "|".join(word for word in _PARTS if word != "half")
_DIGITS = (
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[\u00a0\u2009\u202f]\d{3})+"
    r"|\d{1,3}(?: \d{3}){2,}|\d{1,3}(?: 0\d\d)+|\d+)"
)
_PLAIN = rf"(?:{_DIGITS}(?:\.\d+)?(?:[eE][-+]?\d{{1,3}}\b)?|\.\d+)"
# A number of a text with all that belongs to it. The 10-15 in it is a range.
NUMBER_IN_TEXT = re.compile(
    rf"(?<![\w.,^/$:])(?:\b(?:minus|negative)\s+|(?<![)\d])[-\u2212])?[$€£¥]?"
    rf"(?:\d{{1,2}}:\d\d(?:\s*[ap]\.?m\b)?(?!:)|\d+(?::\d+)+"
    rf"|(?:\d+ (?=\d+/\d))?{_PLAIN}(?![\d,]*\.?\d)(?:/\d+(?![\d/]))?"
    rf"(?:[\u00bc-\u00be\u2150-\u215e]|\^\{{?-?\d+\}}?|!+(?=\s*[a-z*/+^)=])|_\{{?\d+\}}?)?|[\u00bc-\u00be\u2150-\u215e])"
    rf"(?:\s*(?:×|x|\*|\\times)\s*10\^\{{?-?\d+\}}?)?"
    rf"(?:\s*%|\s*[ap]\.?m\b|(?:\s+(?:{_SCALE})s?\b)+|\s+(?:squared|cubed|factorial)\b)?"
    rf"(?:[\s-]+(?:{_PART})s?\b)?(?:\s+and\s+(?:a\s+(?:half|{_PART})|\d+/\d+)\b)?",
)
_POWER = re.compile(r"\^\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MIXED = re.compile(
    r"(?<![\d.,/])(\d+)\s*(?:and\s+)?(?:\\[dtc]?frac\s*\{(\d+)\}\s*\{(\d+)\}|(?<=\s)(\d+)\s*/\s*(\d+))"
)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,])(?!\s*/)")
_SCIENTIFIC = re.compile(r"(\d+\.?\d*|\.\d+)[eE]([-+]?\d{1,4})(?![\w.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_LONG_DECIMAL = re.compile(r"-?\d*\.(\d{11,})")
_QUANTITY = re.compile(
    r"\s*(?P<sign>minus|negative)?\s*(?P<digits>[-+\d.,/*^!()%\s]*?)\s*%?\s*(?P<words>[a-z].*)?",
    re.IGNORECASE | re.DOTALL,
)
_TIME = re.compile(r"(1[0-2]|0?[1-9])(?:[:.]([0-5]\d))?\s*([ap])\.?\s?m\.?", re.IGNORECASE)
_HOURS = {"noon": 720, "12 noon": 720, "midnight": 0, "12 midnight": 0}
_BASE = re.compile(
    r"\(?([0-9a-z]+(?:\.[0-9a-z]+)?)\)?\s*(?:_\s*\{?\s*|\(?(?:in )?base )"
    r"([0-9]{1,2}|[a-z]+)\s*[)}]?",
    re.IGNORECASE,
)


def plain_symbols(text: str) -> str:
    """The text with plain signs in place of full-width digits, ½, ², −, ×, π and the like."""
    text = re.sub("[⁺⁻]?[⁰¹²³⁴-⁹]+", lambda m: "^{" + m[0] + "}", text)
    text = re.sub("(?=[₀-₉])(?<![₀-₉])", "_", text)
    text = re.sub("([¼-¾⅐-⅞])", r" \1", text)
    text = unicodedata.normalize("NFKC", text)
    for sign, plain in (
        ("⁄", "/"), ("−", "-"), ("–", "-"), ("×", r"\times "), ("·", r"\cdot "), ("÷", r"\div "),
        ("π", r"\pi "), ("√", r"\sqrt "), ("∞", r"\infty "), ("±", r"\pm "), ("≤", r"\le "),
        ("≥", r"\ge "), ("°", r"^\circ "),
    ):  # fmt: skip
        text = text.replace(sign, plain)
    return text


def read_special(text: str) -> Hashable | None:
    """The key of a time of day, or of a number in another base than ten; None if it is neither."""
    if text.lower() in _HOURS:
        return "time", _HOURS[text.lower()]
    if time := _TIME.fullmatch(text):
        hour = int(time[1]) % 12 + (12 if time[3].lower() == "p" else 0)
        return "time", 60 * hour + int(time[2] or 0)
    if found := _BASE.fullmatch(text):
        base = int(found[2]) if found[2].isdigit() else _NUMERALS.get(found[2].lower(), 0)
        digits = found[1].lower()
        if 2 <= base <= 36 and all(int(d, 36) < base for d in digits if d != "."):
            return ("number", Fraction(digits)) if base == 10 else ("base", base, digits)
    return None


def read_quantity(text: str) -> Fraction | None:
    r"""The exact value of a number, with or without currency, percent sign and unit.

    Args:
        text: digits and arithmetic, also in LaTeX, or words: ``1,234``, ``-2 1/2 km``,
            ``\frac{1}{20!}``, ``1.5 \times 10^6``, ``5 hundred thousand``, ``two and a half``.

    Returns:
        None if it is no number, or one with a word after it that is no unit.
    """
    if len(text) > 400 or not re.search(r"\d|[a-z]", text, re.IGNORECASE):
        return None
    match = _QUANTITY.fullmatch(_arithmetic(plain_symbols(text)))
    if match is None:
        return None
    digits = match["digits"].strip()
    value = evaluate(digits, Fraction(1)) if digits else None
    if digits and value is None:
        return None
    if value is not None and (shown := _LONG_DECIMAL.fullmatch(digits)):
        near = value.limit_denominator(1000)  # 2.7777777777777777 is how a program shows 25/9
        value = near if near and abs(near - value) <= Fraction(2, 10 ** len(shown[1])) else value
    words = re.findall(r"[^\s/-]+", (match["words"] or "").lower())
    glued = bool(match["words"]) and text.strip()[:1].isdigit() and _is_glued(text)
    counted, rest = _count(value, words)
    if counted is None or not _are_units(rest, counted, glued=glued):
        return None
    return -counted if match["sign"] else counted


def _is_glued(text: str) -> bool:
    """Whether a letter alone follows a digit at once: 5m is a product, 5 m is a length."""
    return re.search(r"[\d)}][a-z](?![a-z])", text, re.IGNORECASE) is not None


def _arithmetic(text: str) -> str:
    """LaTeX, powers, mixed numbers and spaces between thousands as plain arithmetic."""
    text = re.sub(r"\\?[$€£₹]|¥|\\left\b|\\right\b|\\[,;:! ]|\{,\}", "", text).replace(r"\%", "%")
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*[CF]?(?![a-z])", " degrees ", text)
    text = re.sub(r"(?<=[a-z])\s*\^\s*\{?[23]\}?\s*$", "", text)  # of a unit, such as cm^2
    text = _REPEATING.sub(_repeating, text)
    text = re.sub(r"(\\[dtc]?frac)\s*(\d)\s*(\d)", r"\1{\2}{\3}", text)
    text = _MIXED.sub(lambda m: f"({m[1]}+{m[2] or m[4]}/{m[3] or m[5]})", text)
    text = _GROUPED.sub(lambda m: m[0].replace(" ", ""), text)
    text = re.sub(r"\\(?:times|cdot)(?![a-zA-Z])|(?<=[\d)])\s*[xX](?=\s*10\^)", "*", text)
    text = re.sub(r"\\div(?![a-zA-Z])", "/", text)
    before = None
    while before != text:  # from the innermost braces outwards
        before = text
        text = _POWER.sub(r"^(\1)", text)
        text = _FRACTION.sub(r"((\1)/(\2))", text)
    return _SCIENTIFIC.sub(r"(\1*10^(\2))", text)


def _repeating(match: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction: (16 - 1) / 90."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    numerator = int(whole + fixed + repeated) - int(whole + fixed)
    return f"({numerator}/{(10 ** len(repeated) - 1) * 10 ** len(fixed)})"


def _count(number: Fraction | None, words: list[str]) -> tuple[Fraction | None, list[str]]:
    """The value of a number and of the numerals after it, and the words that are left.

    Args:
        number: in front of the words; None where there are only words.
        words: in lower case.
    """
    total, held = Fraction(0), Fraction(0)  # complete thousands; what came before "and"
    for i, word in enumerate(words):
        singular = word.removesuffix("s")
        following = words[i + 1] if i + 1 < len(words) else ""
        if word in _NUMERALS and (number is None or number % (10 if word in _SMALL else 100) == 0):
            number = (number or Fraction(0)) + _NUMERALS[word]
        elif (
            word in ("a", "an") and number is None and following in (_SCALES.keys() | _PARTS.keys())
        ):
            number = Fraction(1)
        elif word in ("a", "an") and number == Fraction(1, 2) and following in _SCALES:
            continue
        elif word == "half" and number is None:
            number = Fraction(1, 2)
        elif singular in _SCALES and (number is not None or held):
            number = (held + (number or 0)) * _SCALES[singular]
            held = Fraction(0)
            if _SCALES[singular] >= 1000 and (following in _NUMERALS or following.isdigit()):
                total, number = total + number, None
        elif number is not None and (word in _PARTS or singular in _PARTS):
            number /= _PARTS.get(word) or _PARTS[singular]
        elif word == "and" and number is not None and not held and following:
            held, number = number, None
        elif number is None and re.fullmatch(r"\d+|\(\d+/\d+\)", word):
            number = evaluate(word)
        else:
            break
    else:
        i = len(words)
    if number is None and not total:
        return None, words
    return total + held + (number or 0), words[i:]


def _are_units(words: list[str], value: Fraction, *, glued: bool) -> bool:
    """Whether words after a number say only what is counted."""
    if not words:
        return True
    if any(word in _VALUES or not re.fullmatch(r"[a-z'’.^\d{}²³°]+", word) for word in words):
        return False
    bare = [re.sub(r"\^?\{?[23²³]\}?$|\.$", "", word) for word in words]
    if any(re.search(r"\d", word) for word in bare) or (glued and len(bare[0]) == 1):
        return False
    return any(
        word in _UNITS
        or (len(word) > 3 and word.endswith("s") and not word.endswith("ss"))
        or (abs(value) <= 1 and len(word) > 2)
        for word in bare
    )
