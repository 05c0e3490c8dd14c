"""Final answers: find them in a solution, and say whether two of them are the same."""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache

_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}\b)?|\.\d+"  # 1,234.5 12 1e3 .5
# "5x" and "2 pi" are formulas; "5 km", "5km" and "5 red apples" are numbers.
_UNIT = (
    r"(?:\s*(?:°[CF]?|[kcm]m|[km]g|ml|[mk]ph|lbs?|oz|ft|in|hrs?|mins?|secs?|[ap]m|cents?)|\s+[mghsl])"
    r"(?:\^?[23²³])?"
    r"|\s+(?!sin|cos|tan|log|exp|sqrt)(?:[a-z]{3,}|of|in|to)"
)
_PLAIN_NUMBER = re.compile(
    rf"(?P<sign>[-−+]?)\s*[$€£¥]?\s*(?P<sign2>[-−]?)"
    rf"(?:(?P<whole>\d+)\s+(?=\d+\s*/))?(?P<number>{_NUMBER})(?:\s*/\s*(?P<over>\d+))?"
    rf"\s*(?P<percent>%|percent\b)?(?:\s*(?P<scale>{'|'.join(_SCALES)})s?\b)?"
    rf"(?:(?:{_UNIT})\b\.?(?:\s+[a-z'’-]+\.?)*)?",
    re.IGNORECASE,
)
_NUMBER_IN_TEXT = re.compile(
    rf"(?<![\w.,^/$])(?:(?<![)\d])[-−])?[$€£¥]?(?:{_NUMBER})(?![\d,]*\.?\d)(?:/\d+(?![\d/]))?"
    rf"(?:\s*%|\s+(?:{'|'.join(_SCALES)})\b)?"
)
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
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad\b|~|\\left\b|\\right\b")
# Two letters or more that are no LaTeX command. math-verify reads them as products of symbols,
# so that "listen" would be the same as "silent".
_WORD = re.compile(r"(?<![\\a-zA-Z])(?!(?:pi|sqrt|frac|sin|cos|tan|log|ln|or|and)\b)[a-zA-Z]{3,}")
_LONGEST = 400  # characters; a longer answer is compared as text alone


def extract_answer(text: str) -> str | None:
    """The final answer of a solution: the one that it states, else its last number, else None."""
    stated = stated_answer(text)
    if stated is not None:
        return stated
    numbers = _NUMBER_IN_TEXT.findall(text)
    return _tidy(numbers[-1]) if numbers else None


def stated_answer(text: str) -> str | None:
    r"""The final answer that a solution calls by that name, or None where it does not.

    Looked for in this order, the last of each kind: a line ``#### 18`` (GSM8K), ``\boxed{18}``, an
    announcement such as "The answer is 18" or "Answer: 18". Dollar signs, bold marks, thousands
    separators and closing full stops are left out; a sentence with one number in it becomes that
    number.
    """
    lines = _HASHES.findall(text)
    if lines and (_plain_number(lines[-1]) is not None or text.rstrip().endswith(lines[-1])):
        return _tidy(lines[-1]) or None
    boxed = _last_boxed(text)
    if boxed is not None and (answer := _tidy(boxed)):
        return answer
    announced = [match["said"] for match in _ANNOUNCED.finditer(text)]
    return (_from_sentence(announced[-1]) or None) if announced else None


def same_answer(a: str | None, b: str | None, timeout: float = 5.0) -> bool:
    """Whether two answers are the same value.

    Numbers are compared here: thousands separators, currency, units and trailing zeros make no
    difference, a percentage equals its number and its share, and decimals are the same up to a
    millionth. What is neither a number nor the same text goes to math-verify (sets, intervals,
    formulas), in a process of its own: it works in any thread, and an expression such as 9^(9^9)
    cannot hang or fill this one. Never raises because of what an answer says.

    Args:
        a: None, as from `extract_answer`, equals nothing.
        b: likewise; the order makes no difference.
        timeout: seconds after which two formulas count as different.
    """
    if a is None or b is None:
        return False
    first, second = sorted((_normal(a), _normal(b)))
    if not first or not second:
        return False
    if first.casefold() == second.casefold():
        return True
    x, y = _plain_number(first), _plain_number(second)
    if x is not None and y is not None:
        return bool(_values(*x) & _values(*y)) or _close(x[0], y[0])
    if max(len(first), len(second)) > _LONGEST or _WORD.search(first) or _WORD.search(second):
        return False
    return _same_formula(first, second, timeout)


def _from_sentence(said: str) -> str:
    """The answer in what follows "the answer is"."""
    sentence = re.split(r"(?<![A-Z])[.!?](?=\s|$)", said.strip(), maxsplit=1)[0]
    maths = [next(filter(None, groups)) for groups in _MATH.findall(sentence)]
    if len(maths) == 1:
        return _tidy(maths[0])
    if _WORD.search(sentence):
        result = sentence.rpartition("=")[2]
        numbers = _NUMBER_IN_TEXT.findall(result)
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
    answer = answer.strip().strip("*_").strip().rstrip(".,;!?:").strip()
    for opening, closing in _WRAPPERS:
        inner = answer[len(opening) : len(answer) - len(closing)]
        if answer.startswith(opening) and answer.endswith(closing) and opening not in inner:
            answer = inner.strip()
    if _plain_number(answer) is not None:
        answer = re.sub(r"(?<=\d),(?=\d{3}(?!\d))|(?<![\w\\])\\?[$€£¥]\s*", "", answer)
    return answer.strip().rstrip(".,;")


def _normal(answer: str) -> str:
    """One spelling for spellings that never differ in value."""
    boxed = _last_boxed(answer)
    answer = _tidy(answer if boxed is None else boxed)
    answer = answer.replace(r"\$", "").replace(r"\%", "%").replace("−", "-")
    answer = _SPACING.sub(" ", answer)
    if _TEXT_COMMAND.sub("", answer).strip():
        answer = re.sub(r"(\d|\})\s*" + _TEXT_COMMAND.pattern + r"\s*$", r"\1", answer)  # a unit
    answer = _TEXT_COMMAND.sub(r"\1", answer)
    answer = re.sub(r"\^\s*(?:\\circ|\{\\circ\})", "", answer)
    return " ".join(answer.split()).strip("$ ").rstrip(".")


def _plain_number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a number that may carry currency, a unit, a percent sign; and if it has one."""
    match = _PLAIN_NUMBER.fullmatch(text.strip())
    if match is None or len(text) > _LONGEST:
        return None
    value = Fraction(match["number"].replace(",", ""))
    if match["over"]:
        if not int(match["over"]):
            return None
        value /= int(match["over"])
    value += int(match["whole"] or 0)
    value *= _SCALES.get((match["scale"] or "").lower(), 1)
    if {match["sign"], match["sign2"]} & {"-", "−"}:
        value = -value
    return value, match["percent"] is not None


def _values(value: Fraction, is_percent: bool) -> set[Fraction]:
    return {value, value / 100} if is_percent else {value}


def _close(x: Fraction, y: Fraction) -> bool:
    return abs(x - y) <= min(max(abs(x), abs(y)) / 10**6, Fraction(1, 1000))


@lru_cache(maxsize=65536)
def _same_formula(first: str, second: str, timeout: float) -> bool:
    return _WORKER.ask(first, second, timeout)


class _Worker:
    """A process that runs math-verify. One that takes too long is killed; the next starts another.

    math-verify stops long work by a signal, which fails outside the main thread and cannot
    interrupt big-integer arithmetic.
    """

    START_SECONDS = 60.0  # to import sympy on a busy machine

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, first: str, second: str, timeout: float) -> bool:
        """What math-verify says; False where it says nothing in time."""
        request = json.dumps([first, second, timeout])
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self.stop()
                self._process = self._start()
                if self._ask(self._process, None, self.START_SECONDS) != "ready":
                    raise RuntimeError(
                        "answers: the process that compares formulas did not start. "
                        "Check that the package math-verify is installed."
                    )
            said = self._ask(self._process, request, timeout + 1)
            if not said:
                self.stop()
            return said == "same"

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
    from math_verify import parse, verify

    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    print("ready", flush=True)
    for line in sys.stdin:
        first, second, timeout = json.loads(line)
        seconds = max(1, int(timeout))
        try:
            x, y = (parse(f"${text}$", parsing_timeout=seconds) for text in (first, second))
            same = any(
                verify(gold, target, timeout_seconds=seconds) for gold, target in ((x, y), (y, x))
            )
        except Exception:  # of sympy and its parsers, on text that a model wrote: no common class
            same = False
        print("same" if same else "different", flush=True)


if __name__ == "__main__":
    _serve()
