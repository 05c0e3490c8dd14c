"""Final answers: find them in a solution, and say whether two of them are the same.

Each answer has a key (`answer_key`), and answers with equal keys are the same. So the answers of a
problem fall into groups that do not depend on their order. `quantities.py` reads numbers.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Hashable
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache

from prm_lightning.quantities import NUMBER_IN_TEXT, plain_symbols, read_quantity, read_special

_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_ANNOUNCED = re.compile(
    r"(?:^|(?<=[\s*_(]))(?:(?:final |correct )?answer\b[^.:=\n]{0,60}?(?:\bis\b(?![ ]*\n)|[:=])|A:)"
    r"[\s:*_]*(?:(?:therefore|thus|hence|then|simply),?\s)?(?=(?P<said>[^\n]+))",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\f?boxed\b\s*")
_MATH = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|textit|mbox)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~|\\left\b|\\right\b")
# Three letters or more that are no LaTeX command: words, which a parser of formulas would read as
# products of symbols, so that "listen" would be the same as "silent".
_WORD = re.compile(r"(?<![\\a-zA-Z])(?!(?:sqrt|frac|sin|cos|tan|log)\b)[a-zA-Z]{3,}")
_FUNCTIONS = "frac|sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|cdot|times|div"
_FORMULA = re.compile(
    rf"(?:[\w\s.+\-*/^(){{}}|!=]|\\(?:{_FUNCTIONS}|infty|pi|[a-z]*(?:eta|mu|nu|psi|phi|rho|tau)"
    r"|alpha|gamma|delta|epsilon|lambda|sigma|omega|kappa)(?![a-zA-Z]))+"
)
_NO_FORMULA = re.compile(rf"{_WORD.pattern}|\d\s+\d|\.\d*\.|=.*=")
_NAMED = re.compile(
    r"\s*(\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?)\s*(?:=|\\in\b)\s*(?!=)(.*)", re.DOTALL
)
_FULL_STOP = re.compile(r"(?<![A-Z])(?<!\b[ap]\.m)(?<!\b[ap])[.!?](?=\s|$)")
_MATRIX = re.compile(r"\\begin\{([a-z]*matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_ELLIPSIS = re.compile(r"\\[lcd]?dots|\.\.\.|…")
_ENDS_IN_MATH = re.compile(r"\.\.\.$|[\da-z)]!+$")  # an ellipsis or a factorial
_OPENING, _CLOSING = "([{", ")]}"
_LONGEST = 400  # characters; a longer answer is compared as text alone


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
    """Whether two answers are the same: their keys are equal (see `answer_key`).

    Args:
        a: None, as from `extract_answer`, and a blank text are the same as nothing.
        b: the other answer; the order makes no difference.
        timeout: seconds after which a formula is compared as text.
    """
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
    if answer is None:
        return None
    text = _normal(answer)
    return _key(text, timeout) if text else None


def _key(text: str, timeout: float) -> Hashable:
    as_text = "text", "".join(text.casefold().split())
    if len(text) > _LONGEST:
        return as_text
    special = read_special(text)
    if special is not None:
        return special
    value = read_quantity(text)
    if value is not None:
        return "number", value
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        return "matrix", tuple(tuple(_key(item.strip(), timeout) for item in row) for row in rows)
    parts = _divide(text, (r"\cup", "∪"))
    if len(parts) > 1:
        return "union", frozenset(_key(part, timeout) for part in parts)
    if text.count(r"\pm") == 1:
        signs = [text.replace(r"\pm", sign).strip().removeprefix("+") for sign in "+-"]
        return "set", frozenset(_key(sign, timeout) for sign in signs)
    parts = _divide(text, (",", ";", " or ", " and "))
    if len(parts) > 1:
        return _key_of_list(parts, timeout)
    named = _NAMED.fullmatch(text)
    if named and named[2] and "=" not in named[2]:
        return _key(named[2], timeout)
    bracketed = _without_brackets(text)
    if bracketed:
        opening, inner, closing = bracketed
        parts = _divide(inner, (",", ";"))
        if opening == "{":
            return _key_of_list(parts, timeout)
        if len(parts) > 1:
            return opening, closing, tuple(_key(part, timeout) for part in parts)
        if opening == "(" and inner:
            return _key(inner, timeout)
    if len(text) > 1 and _FORMULA.fullmatch(text) and not _NO_FORMULA.search(text):
        form = _WORKER.ask(text, timeout)
        if form.startswith("= "):
            return "number", Fraction(form[2:])
        return ("formula", form) if form else as_text
    return as_text


def _key_of_list(items: list[str], timeout: float) -> Hashable:
    """The key of things without order; an item that is the same as another one counts once.

    A series, which has an ellipsis, has an order, and values of several variables have names.
    """
    if any(_ELLIPSIS.search(item) for item in items):
        return "series", tuple(_key(item, timeout) for item in items)
    named = [_NAMED.fullmatch(item) for item in items]
    if len({name[1] for name in named if name}) > 1 and all(named):
        return "values", frozenset((n[1], _key(n[2], timeout)) for n in named if n)
    keys = frozenset(_key(item, timeout) for item in items)
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


def _without_brackets(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, content and closing bracket of a text that one pair of brackets holds."""
    text = text.replace(r"\{", "{").replace(r"\}", "}")
    if text[:1] not in tuple(_OPENING) or text[-1:] not in tuple(_CLOSING):
        return None
    depth = 0
    for i, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0:
            inside = text[0], text[1:-1].strip(), text[-1]
            return inside if i == len(text) - 1 else None
    return None


def _from_sentence(said: str) -> str:
    """The answer in what follows "the answer is"."""
    sentence = re.split(
        r"(?<![A-Z])(?<!\b[ap]\.m)(?<!\b[ap])[.!?](?=\s|$)", said.strip(), maxsplit=1
    )[0]
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
        for i, char in enumerate(rest):
            escaped = i > 0 and rest[i - 1] == "\\"
            depth += (char == "{" and not escaped) - (char == "}" and not escaped)
            if depth == 0:
                found = rest[1:i]
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
        answer = re.sub(r"(?<=\d),(?=\d{3}(?!\d))|(?<![\w\\])\\?[$€£¥]\s*", "", answer)
    return answer.strip().rstrip(",;") if "..." in answer else answer.strip().rstrip(".,;")


def _normal(answer: str) -> str:
    """One spelling for spellings that never differ in value."""
    boxed = _last_boxed(answer)
    answer = plain_symbols(_tidy(answer if boxed is None else boxed))
    answer = _SPACING.sub(" ", answer.replace(r"\{", "{").replace(r"\}", "}"))
    answer = _TEXT_COMMAND.sub(r" \1 ", answer)
    return " ".join(answer.split()).strip("$ ").rstrip(".")


class _Worker:
    """A process that simplifies formulas. One that takes too long is killed; the next starts anew.

    A signal would stop long work neither outside the main thread nor in big-integer arithmetic.
    """

    START_SECONDS = 60.0  # to import sympy on a busy machine

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, formula: str, timeout: float) -> str:
        """The simplest form of a formula; empty if there is none in time."""
        request = json.dumps(formula)
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self.stop()
                self._process = self._start()
                if self._ask(self._process, None, self.START_SECONDS) != '"ready"':
                    raise RuntimeError(
                        "answers: the process that compares formulas did not start. "
                        "Check that the package math-verify is installed."
                    )
            said = self._ask(self._process, request, timeout)
            if not said:
                self.stop()
                return ""
            return str(json.loads(said))

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(BrokenPipeError):  # of what was not sent
                    if pipe is not None:
                        pipe.close()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, sys.path))
        return subprocess.Popen(
            [sys.executable, "-m", "prm_lightning.answers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
            encoding="utf-8",
        )

    @staticmethod
    def _ask(process: subprocess.Popen[str], request: str | None, timeout: float) -> str:
        """What it answers; nothing if it died or had to be killed."""
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            if request is not None:
                print(request, file=process.stdin, flush=True)
            return process.stdout.readline().strip()
        except BrokenPipeError:
            return ""
        finally:
            timer.cancel()


_WORKER = _Worker()
atexit.register(_WORKER.stop)


def _serve() -> None:
    """Answer requests on stdin until it closes."""
    import latex2sympy2_extended  # noqa: F401  # before "ready" is said, since it takes long

    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        try:
            form = _simplest(json.loads(line))
        except Exception:  # of sympy and its parsers, on text that a model wrote: no common class
            form = ""
        print(json.dumps(form), flush=True)


def _simplest(formula: str) -> str:
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
