"""Final answers: find them in a solution, and say whether two of them are the same.

Each answer has a key (`answer_key`), and answers with equal keys are the same. So the answers of a
problem fall into groups that do not depend on their order. `quantities.py` reads numbers.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Hashable
from fractions import Fraction
from functools import cache, lru_cache

from prm_lightning.quantities import NUMERALS, PARTS, SCALES, counted, plain_symbols, read_quantity

_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_ANNOUNCED = re.compile(
    r"(?i)(?<![^\s*_(])(?:(?:final |correct )?answer\b[^.:=\n]{0,60}?(?:\bis\b(?![ ]*\n)|[:=])|A:)"
    r"[\s:*_]*(?:(?:therefore|thus|hence|then|simply),?\s)?(?=(?P<said>[^\n]+))"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\b\s*")
_MATH = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|mbox)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~|\\left\b|\\right\b")
# Three letters or more that are no LaTeX command: words, which a parser of formulas would read as
# products of symbols, so that "listen" would be the same as "silent".
_WORD = re.compile(r"(?<![\\a-zA-Z])(?!(?:sqrt|frac|sin|cos|tan|log)\b)[a-zA-Z]{3,}")
_FUNCTIONS = "frac|sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|cdot|times|div"
_FORMULA = re.compile(
    rf"(?:[\w\s.+\-*/^(){{}}|!=]|\\sqrt\[\d\]|\\(?:{_FUNCTIONS}|infty|pi"
    r"|[a-z]*(?:eta|mu|nu|psi|phi|rho|tau)|alpha|gamma|delta|epsilon|lambda|sigma|omega|kappa)(?![a-zA-Z]))+"
)
# No formulas are 1_000, "3 to 5", names such as IV and AB, and ranges and dates: 10-15, 2/4/20.
_NO_FORMULA = re.compile(
    rf"{_WORD.pattern}|\d\s+\d|\.\d*\.|=.*=|\d\s*_|\d\s+[a-z]{{2}}\s+\d|(?<![\\a-zA-Z])[A-Z]{{2}}"
    r"|\A[-\d\s.,/]+\Z"
)
_NAMED = re.compile(
    r"(?s)\s*(\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?)\s*(?:=|\\in\b)\s*(?!=)(.*)"
)
_FULL_STOP = re.compile(r"(?<![A-Z])(?<!\b[ap]\.m)(?<!\b[ap])(?!(?<=\d)!+ [a-z])[.!?](?=\s|$)")
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_ENDS_IN_MATH = re.compile(r"\.\.\.$|[\da-z)]!+$")  # an ellipsis or a factorial
_TIME = re.compile(r"(1[0-2]|0?[1-9])(?:[:.]([0-5]\d))?\s*([ap])\.?\s?m\.?", re.IGNORECASE)
_SPELLINGS = (  # that differ in nothing
    (r"\\[lcd]?dots[bcimo]?(?![a-z])|\.\.\.+|[…⋯]|\betc\b\.?|\band so on\b", r"\\ldots"),
    (r"\\(ge|le|ne)q(?:slant)?(?![a-zA-Z])", r"\\\1"), (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\varnothing(?![a-zA-Z])|∅", r"\\emptyset"), (r"\\degree(?![a-zA-Z])", r"^\\circ"),
    (r"(?i)( o'clock)? in the morning", " am"), (r"(?i)( o'clock)? in the (after|eve)\w+", " pm"),
    (r"\A([a-zA-Z])\)\Z", r"\1"), ("≠", r"\\ne "),
)  # fmt: skip
_BASE = re.compile(
    r"(?i)\(?([0-9a-z]+(?:\.[0-9a-z]+)?)\)?\s*(?:_\s*\{?\s*|\(?(?:in )?base )"
    r"([0-9]{1,2}|[a-z]+)\s*[)}]?"
)
_PART = "|".join(word for word in PARTS if word != "half")
_DIGITS = (
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[\u00a0\u2009\u202f'’]\d{3})+"
    r"|\d{1,3}(?:\.\d{3}){2,}|\d{1,2}(?:,\d\d)+,\d{3}"
    r"|\d{1,3}(?: \d{3}){2,}|\d{1,3}(?: 0\d\d)+|\d+)"
)
_PLAIN = rf"(?:\d*\.\d*\\overline\{{\d+\}}|{_DIGITS}(?:\.\d+)?(?:[eE][-+]?\d{{1,3}}\b)?|\.\d+)"
_TEX_FRACTION, _SUPER = r"\\[dtc]?frac\{\d+\}\{\d+\}", "[⁺⁻]?[⁰¹²³⁴-⁹]+"
_ROOT = r"(?:√\s*\d+|\\sqrt\s*\{?\d+\}?)"
# A number of a text with all that belongs to it. The 10-15 in it is a range.
NUMBER_IN_TEXT = re.compile(
    rf"(?<![\w.,^/$:√])(?:\b(?:minus|negative)\s+|(?<![)\d])[-\u2212])?[$€£¥]?"
    rf"(?:\d{{1,2}}:\d\d(?:\s*[ap]\.?m\b)?(?!:)|\d+(?::\d+)+|\d*\s?{_TEX_FRACTION}|{_ROOT}"
    rf"|(?:\d+ (?=\d+/\d))?{_PLAIN}(?![\d,]*\.?\d|[xyznabkKMB]\b)(?:/\d+(?![\d/]))?(?:"
    rf"\s?[\u00bc-\u00be\u2150-\u215e]|\^\{{?-?\d+\}}?|\^\(-?\d+\)|{_SUPER}|_\{{?\d+\}}?|[₀-₉]+"
    rf"|!+(?=\s*[a-z*/+^)=]|\.(?!\.))|\s*(?:π|\\?pi\b|{_ROOT}))?|[\u00bc-\u00be\u2150-\u215e])"
    rf"(?:\s*(?:[×x*·]|\\times|\\cdot)\s*10(?:\^\{{?-?\d+\}}?|{_SUPER}))?"
    rf"(?:\s*%|\s*[ap]\.?m\b|(?:\s+(?:{'|'.join(SCALES)})s?\b)+|\s+(?:squared|cubed|factorial)\b)?"
    rf"(?:[\s-]+(?:{_PART})s?\b)?"
    rf"(?:\s+and\s+(?:(?:an?|one|two|three|four|five)[\s-]+(?:half|{_PART})s?|\d+/\d+)\b)?"
)
_HOURS = {"noon": 720, "12 noon": 720, "midnight": 0, "12 midnight": 0}
_OPENING, _CLOSING = "([{", ")]}"
_LONGEST = 400  # characters; a longer answer is compared as text alone
_START_SECONDS = 60  # to import sympy on a busy machine


def extract_answer(text: str) -> str | None:
    """The final answer of a solution: the one that it states, else its last number, else None."""
    stated = stated_answer(text)
    if stated is not None:
        return stated
    numbers = NUMBER_IN_TEXT.findall(text)
    return _tidy(numbers[-1]) if numbers else None


def stated_answer(text: str) -> str | None:
    r"""The final answer that a solution calls by that name, or None where it does not.

    Looked for in this order, the last of each kind: a line ``#### 18`` (GSM8K), ``\boxed{18}``, an
    announcement such as "The answer is 18" or "Answer: 18". Dollar signs, bold marks, thousands
    separators and closing full stops are left out; a sentence with one number in it becomes that
    number, with all that belongs to the number: "5 hundred thousand", "3 pm", "2 thirds".
    """
    lines = _HASHES.findall(text)
    if lines and (read_quantity(lines[-1]) is not None or text.rstrip().endswith(lines[-1])):
        return _tidy(lines[-1]) or None
    boxed = _last_boxed(text)
    if boxed is not None and (answer := _tidy(boxed)):
        return answer
    announced = [match["said"] for match in _ANNOUNCED.finditer(text)]
    return (_from_sentence(announced[-1]) or None) if announced else None


def same_answer(a: str | None, b: str | None, timeout: float = 5.0) -> bool:
    """Whether two answers have equal keys, see `answer_key`; no answer is the same as nothing."""
    key = answer_key(a, timeout)
    return key is not None and key == answer_key(b, timeout)


@lru_cache(maxsize=65536)
def answer_key(answer: str | None, timeout: float = 5.0) -> Hashable | None:
    r"""A key that answers share if and only if they are the same; None where there is no answer.

    Numbers are compared exactly, as fractions, in digits or in words: ``1,234``, ``1 000 000``,
    ``2½``, ``\frac{1}{2^{99}}``, ``5 hundred thousand``, ``2 thirds``. Currency, percent signs and
    units make no difference, so that 50% is 50. A decimal of 12 digits or more is the fraction that
    it is the beginning of. A time of day, and a number in another base than ten, equal only
    themselves. Sets have no order, pairs and intervals do. A formula is simplified by sympy, in a
    process of its own: it works in any thread, and an expression such as 9^(9^9) cannot hang or
    fill this one. What is none of these is compared as text, without case. Never raises because of
    what an answer says.

    Args:
        answer: as `extract_answer` gives it, or a reference answer.
        timeout: seconds after which a formula is compared as text.
    """
    text = _normal(answer or "")
    return _key(text, timeout) if text else None


def _key(text: str, timeout: float) -> Hashable:
    as_text = "text", "".join(text.casefold().split())
    if len(text) > _LONGEST:
        return as_text
    key = _key_of_number(text)
    if key is not None:
        return key
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        return "matrix", tuple(tuple(_key(item.strip(), timeout) for item in row) for row in rows)
    parts = _divide(text, (r"\cup", "∪"))
    if len(parts) > 1:
        return "union", frozenset(_key(part, timeout) for part in parts)
    if text.count(r"\pm") == 1:
        signs = [text.replace(r"\pm", sign).strip().removeprefix("+") for sign in "+-"]
        return _key_of_list(signs, timeout)
    parts = _divide(text, (",", ";", " or ", " and "))
    if len(parts) > 1:
        key = _key_of_list(parts, timeout)
        return ("and", key) if " and " in text and re.search(r"[<>]|\\[lg]e\b", text) else key
    named = _NAMED.fullmatch(text)
    if named and named[2] and "=" not in named[2]:
        return _key(named[2], timeout)
    if inner := _inside_brackets(text):
        parts = _divide(inner, (",", ";"))
        if text[0] == "{":
            return _key_of_list(parts, timeout)
        if len(parts) > 1:
            return text[0], text[-1], tuple(_key(part, timeout) for part in parts)
        if text[0] == "(":
            return _key(inner, timeout)
    if len(text) > 1 and _FORMULA.fullmatch(text) and not _NO_FORMULA.search(text):
        form = _simplest(text, timeout)
        if form.startswith("= "):
            return "number", Fraction(form[2:])
        return ("formula", form) if form else as_text
    return as_text


def _key_of_number(text: str) -> Hashable | None:
    """The key of a time of day, of a number in another base than ten, or of a plain number."""
    if text.lower() in _HOURS:
        return "time", _HOURS[text.lower()]
    if time := _TIME.fullmatch(text):
        hour = int(time[1]) % 12 + (12 if time[3].lower() == "p" else 0)
        return "time", 60 * hour + int(time[2] or 0)
    if found := _BASE.fullmatch(text):
        base = int(found[2]) if found[2].isdigit() else NUMERALS.get(found[2].lower(), 0)
        digits = found[1].lower()
        if 2 <= base <= 36 and all(int(d, 36) < base for d in digits if d != "."):
            return ("number", Fraction(digits)) if base == 10 else ("base", base, digits)
    value = read_quantity(text)
    return None if value is None else ("number", value)


def _key_of_list(items: list[str], timeout: float) -> Hashable:
    """The key of things without order; an item that is the same as another one counts once.

    A series, which has an ellipsis, has an order, and values of several variables have names.
    """
    if any(r"\ldots" in item for item in items):
        return "series", tuple(_key(item, timeout) for item in items)
    named = [_NAMED.fullmatch(item) for item in items]
    if len({name[1] for name in named if name}) > 1 and all(named):
        return "values", frozenset((n[1], _key(n[2], timeout)) for n in named if n)
    keys = frozenset(_key(item, timeout) for item in items)
    things = [counted(item) if read_quantity(item) is not None else "" for item in items]
    if len({*things} - {""}) > 1:  # 3 boys and 4 girls
        return "values", frozenset(
            (t, _key(i, timeout)) for t, i in zip(things, items, strict=True)
        )
    return next(iter(keys)) if len(keys) == 1 else ("set", keys)


def _divide(text: str, marks: tuple[str, ...]) -> list[str]:
    """The parts of a text between marks that are in no bracket."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        depth += (text[i] in _OPENING) - (text[i] in _CLOSING)
        mark = next((m for m in marks if depth <= 0 and text.startswith(m, i)), "")
        if mark:
            parts.append(text[start:i].strip())
            start = i + len(mark)
        i += len(mark) or 1
    return [part for part in (*parts, text[start:].strip()) if part]


def _inside_brackets(text: str) -> str:
    """What is inside the one pair of brackets that holds all of a text; else empty."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth <= 0:
            return text[1:-1].strip() if i and i == len(text) - 1 else ""
    return ""


def _from_sentence(said: str) -> str:
    """The answer in what follows "the answer is"."""
    sentence = _FULL_STOP.split(said.strip(), maxsplit=1)[0]
    maths = [next(filter(None, groups)) for groups in _MATH.findall(sentence)]
    if len(maths) == 1:
        return _tidy(maths[0])
    if _WORD.search(sentence):
        result = sentence.rpartition("=")[2]
        numbers = NUMBER_IN_TEXT.findall(result)
        if len(numbers) == 1:
            return _tidy(numbers[0])
    elif re.search(r"\d.*=", sentence):
        return _tidy(sentence.rpartition("=")[2])
    return _tidy(sentence)


def _last_boxed(text: str) -> str | None:
    found = None
    for match in _BOXED.finditer(text):
        rest = text[match.end() :]
        if not rest.startswith("{"):
            bare = re.match(r"[^\s$]+", rest)  # \boxed 5
            found = bare[0] if bare else found
            continue
        depth = 0
        for brace in re.finditer(r"(?<!\\)[{}]", rest):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                found = rest[1 : brace.start()]
                break
    return found


def _tidy(answer: str) -> str:
    """Without wrappers and closing punctuation; a number without separators and currency."""
    answer = answer.strip().strip("*_").strip()
    if not _ENDS_IN_MATH.search(answer):
        answer = answer.rstrip(".,;!?:").strip()
    for opening, closing in _WRAPPERS:
        inner = answer[len(opening) : len(answer) - len(closing)]
        if answer.startswith(opening) and answer.endswith(closing) and opening not in inner:
            answer = inner.strip()
    if read_quantity(answer) is not None:
        answer = re.sub(r"(?<=\d),(?=\d)|(?<![\w\\])\\?[$€£¥]\s*", "", answer)
    return answer.strip().rstrip(",;" if "..." in answer else ".,;")


def _normal(answer: str) -> str:
    """One spelling for spellings that never differ in value."""
    boxed = _last_boxed(answer)
    answer = plain_symbols(_tidy(answer if boxed is None else boxed))
    for pattern, spelling in _SPELLINGS:
        answer = re.sub(pattern, spelling, answer)
    answer = _SPACING.sub(" ", answer.replace(r"\{", "{").replace(r"\}", "}"))
    return " ".join(_TEXT_COMMAND.sub(r" \1 ", answer).split()).strip("$ ").rstrip(".")


_LOCK = threading.Lock()  # the process takes one formula at a time


@cache
def _worker() -> subprocess.Popen[str]:
    """A process that simplifies formulas, and ends where one takes too long.

    A signal would stop long work neither outside the main thread nor in big-integer arithmetic.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "prm_lightning.answers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    if not process.stdout.readline():
        raise RuntimeError(
            "answers: the process that compares formulas did not start. "
            "Check that the package math-verify is installed."
        )
    return process


def _simplest(formula: str, timeout: float) -> str:
    """The simplest form of a formula; empty if there is none in time."""
    with _LOCK:
        if _worker().poll() is not None:
            _worker.cache_clear()
        process = _worker()
        assert process.stdin is not None and process.stdout is not None
        print(json.dumps([formula, timeout]), file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            process.wait()
        return str(json.loads(line)) if line else ""


def _serve() -> None:
    """Answer requests on stdin until it closes; an alarm, which nothing handles, ends it all."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    signal.alarm(_START_SECONDS)
    import latex2sympy2_extended  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        formula, timeout = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            form = _simplify(formula)
        except Exception:  # of sympy and its parsers, on text that a model wrote: no common class
            form = ""
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(form), flush=True)


def _simplify(formula: str) -> str:
    """A formula, or an equation as what is 0, in a form that equal ones mostly share."""
    import sympy
    from latex2sympy2_extended import latex2sympy

    def expression(text: str) -> sympy.Expr:
        text = re.sub(r"(?<![\\a-zA-Z])(sin|cos|tan|log|ln|exp|sqrt|pi)\b", r"\\\1", text)
        text = re.sub(r"(\\[dtc]?frac)\s*(\d)\s*(\d)", r"\1{\2}{\3}", text)
        text = re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", text)
        value = sympy.nsimplify(latex2sympy(text), rational=True)
        return sympy.expand(sympy.radsimp(sympy.cancel(sympy.together(sympy.expand(value)))))

    sides = formula.split("=")
    if len(sides) == 1:
        value = expression(formula)
        if value.has(sympy.zoo, sympy.nan):  # it divides by zero
            return ""
        return f"= {value}" if value.is_Rational else str(sympy.srepr(value))
    left, right = map(expression, sides)
    zero = sympy.expand(sympy.numer(sympy.together(left - right)))
    first = zero.as_ordered_terms()[0].as_coeff_Mul()[0]
    return "0 = " + str(sympy.srepr(sympy.expand(zero / first)))


if __name__ == "__main__":
    _serve()
