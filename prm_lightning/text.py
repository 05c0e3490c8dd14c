"""Pure string work on problems and steps. Nothing here evaluates what a text says."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

GUIDE_PROMPT = ("### Question:\n", "\n\n### Partial Solution:\n")  # around the problem
GUIDE_BRANCH = "\n### Evaluate this step:\n"
_BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")
# A mark holds an equation or a bare number; code such as `x << n >> 2` holds neither.
_CALCULATOR_MARK = re.compile(r"<<(?:[^<>=\n]*=[^<>\n]*|[\d.,]+)>>")
_THOUSANDS_MARK = re.compile(r"(?<=\d)(?:[,']|\s+)(?=\d{3}(?!\d))")
_LETTER = r"[^\W\d_\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"  # in words with spaces
# Characters that are not seen: soft hyphens, joiners, marks of direction, variation selectors.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0]"
)
# NFKC would make x² the same as x2, 3½ the same as 31/2 and 10₂ the same as 102.
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_FRACTION_OR_INDEX = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞₀-₉])")
_SIGNS = str.maketrans("‐‑‒–—―−➖×∗⋅·∙•÷⁄∕’‘′٫٬", "--------******///'''.,")
# f'(2), sin'(x), (fg)', 5', but not Ann's, dogs' and 'A'
_PRIMES = re.compile(
    rf"((?<!{_LETTER})(?<![\d_'\"]){_LETTER}|(?<!['\"])[\d)\]}}]|\w(?='+\())('+)(?!{_LETTER})"
)
# Operators and brackets stay: without them 2+3 and 2-3 would be one problem.
_PUNCTUATION = re.compile(
    r"""["$',:;?\\_`~¡¿«»\u2010-\u201f\u2026\u2032-\u203a]"""
    r"|[\u060c\u061b\u061f\u0964\u0965\u3001-\u3003\u3008-\u3011\u3014-\u301f\u30fb]"
    r"|\.(?!\d)"  # not a decimal point
    rf"|(?<={_LETTER}{{2}})-|-(?={_LETTER}{{2}})"  # a hyphen, not a minus
    rf"|(?<![\d)\]}}|!])(?<!(?<!{_LETTER}){_LETTER})!+(?!=)"  # no factorial: 5!, n!, (n - 1)!
)
_OPERATOR = re.compile(r"([-+*/^=<>()\[\]{}|%!#&@])")
_STEP_NUMBER = re.compile(r"\s*step \d{1,4}[:.]", re.IGNORECASE)


def fold_newlines(text: str) -> str:
    r"""Strip a text and make each inner run of newlines, blank lines included, one ``\n``.

    CRLF and CR count as newlines. The indentation of a line that follows another stays. The
    result never holds two newlines with only white space between them; folding twice changes
    nothing.

    Examples:
        >>> fold_newlines(" 3 * 4\r\n \n  = 12 ")
        '3 * 4\n  = 12'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _BLANK.sub("\n", text).strip()


@lru_cache(maxsize=2**16)  # a problem has many solutions, one after the other
def normalise_problem(text: str) -> str:
    """The key by which copies of a problem are recognised.

    Case, white space, punctuation, thousands separators and the Unicode form make no difference:
    composed and decomposed accents, full-width and invisible characters, kinds of minus signs and
    of quotation marks. Digits, decimal points, operators, factorials, primes and brackets do. A
    text of punctuation alone is its own key.

    Examples:
        >>> normalise_problem("What is 1,200 − 3.5?") == normalise_problem("what is  1200-3.5")
        True
        >>> normalise_problem("What is 5!?") == normalise_problem("What is 5?")
        False
    """
    key = _INVISIBLE.sub("", text.casefold()).replace("´", "'")  # which NFKC takes for an accent
    key = _FRACTION_OR_INDEX.sub(" ", _SUPERSCRIPT.sub(r"^\g<0>", key))
    key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", key).casefold())
    key = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), key.translate(_SIGNS))
    key = re.sub(r"(?<=\d)\s+!", "!", _THOUSANDS_MARK.sub("", key))
    key = _PRIMES.sub(lambda found: found[1] + " prime" * len(found[2]), key)
    key = _OPERATOR.sub(r" \1 ", _PUNCTUATION.sub(" ", key))
    return " ".join(key.split() or text.casefold().split())


def remove_step_number(step: str) -> str:
    """Take "Step 3:" off the front of a step; a step that is nothing else stays."""
    number = _STEP_NUMBER.match(step)
    return step[number.end() :].strip() or step if number else step


def guide_text(problem: str, steps: Sequence[str]) -> str:
    """A problem and the steps up to the one in question, as the template `guide` writes them.

    A newline ends a step there, so that those inside the problem or a step become spaces. The text
    ends in a newline.
    """
    problem, *lines = (fold_newlines(text).replace("\n", " ") for text in (problem, *steps))
    solution = "".join(f"{line}\n" for line in lines)
    before, after = GUIDE_PROMPT
    return before + problem + after + solution + GUIDE_BRANCH


def remove_calculator_marks(text: str) -> str:
    """Take out the calculator marks of GSM8K.

    Examples:
        >>> remove_calculator_marks("2*3=<<2*3=6>>6")
        '2*3=6'
    """
    return _CALCULATOR_MARK.sub("", text)


# Text that is never torn: code, and display math.
_WHOLE = re.compile(
    r"(?ms)```.*?(?:```|\Z)|^~~~.*?(?:^~~~|\Z)"
    r"|<llm-code>.*?(?:</llm-code>|\Z)|<llm-code-output>.*?(?:</llm-code-output>|\Z)"
    r"|\$\$.*?\$\$|\\\[.*?\\\]"
    r"|\\begin\{(?P<name>\w+\*?)\}.*?\\end\{(?P=name)\}"
)
# A dollar sign before a space or a digit closes nothing: it is money.
_INLINE_MATH = re.compile(r"\$(?=\S)[^$\n]+(?<=\S)\$(?!\d)|\\\(.*?\\\)", re.DOTALL)
_DISPLAY = re.compile(
    r"(?:(?:\$\$.*?\$\$|\\\[.*?\\\]|\\begin\{.*?\\end\{\w+\*?\})[\s.,;]*)+", re.DOTALL
)
_ENDS_IN_DISPLAY = re.compile(r"(?:\$\$|\\\]|\\end\{\w+\*?\})[.,;]?\s*\Z")
_STEP_MARK = re.compile(
    r"(?im)^[ \t]*(?:#{1,6} *)?(?:\*\*|__)?(?:Step +|(?:步骤|第|ステップ|단계|Schritt|Étape|Paso"
    r"|Шаг) *)(\d+)(?![\d.]*\d|[a-z])"
)
_NUMBER_MARK = re.compile(
    r"^ {0,3}(?:#{1,6} *)?(?:\*\*|__)?\(?(\d{1,2})(?:[.)](?=[ \t*_])|[、．])", re.MULTILINE
)
_BLANK_START = re.compile(r"\A(?:[^\S\n]*\n)+")
_LINE = re.compile(r"\n")
# A Chinese or Japanese full stop needs no space after it, but may have a bracket or quotation mark.
_SENTENCE = re.compile(
    r"(?:(?<=[。！？])|(?<=[。！？][”’」』）]))(?![。！？”’」』）])[^\S\n]*(?=\S)"
    r"|(?:(?<=[.!?।؟])|(?<=[.!?][\"”’)]))(?<!\b(?:Mr|Dr|Ms|St|vs|No|cf|al|Jr|Sr|[Ee]q|ca)\.)"
    r"(?<!\b(?:Mrs|etc|e\.g|i\.e|[Ff]ig)\.)(?<!\b(?:Prof|resp)\.)(?<!\b[Aa]pprox\.)(?<!\b[A-Z]\.)"
    r"[^\S\n]+(?=[A-Z\d$\\(\"'*¿¡“\u00c0-\u00de\u0386-\u03ab\u0400-\u042f\u0600-\u0e7f"
    r"\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3])"
)
_CONCLUDES = re.compile(
    r"(?i)(?:#### |(?:\*\*|#+ *)?(?:final )?answer\b"
    r"|(?:so|thus|therefore|hence|finally|in conclusion|in total|the (?:final )?answer)\b)"
)
_HEADING = re.compile(r"(?!#### [^\n]*\d)#{1,6} .*|\*\*[^*\n]+\*\*:?")


def split_steps(text: str) -> list[str]:
    r"""The steps of a solution as a model wrote it, each stripped; none of a blank text.

    The first of these that finds at least two steps decides: numbered steps ("Step 1:", "1.", with
    or without Markdown around, counting up by one, indented alike), blocks between blank lines,
    lines, sentences. Blocks do not count where one of several lines is followed only by a one-line
    conclusion. Code and display math are never torn; an introduction that ends in a colon and a
    heading belong to the step that follows, display math, table rows and indented lines to the one
    before. Only white space between steps is lost.

    Examples:
        >>> split_steps("Step 1: 3 * 4 = 12.\nStep 2: So 2 + 12 = 14.")
        ['Step 1: 3 * 4 = 12.', 'Step 2: So 2 + 12 = 14.']
        >>> split_steps("We compute:\n\n3 * 4 = 12.\n\nThe answer is 12.")
        ['We compute:\n\n3 * 4 = 12.', 'The answer is 12.']
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    text = _BLANK_START.sub("", text)  # the indentation of the first line stays
    return (
        _at_numbers(text)
        or _at_blank_lines(text)
        or _whole_steps(text, _LINE)
        or _whole_steps(text, _SENTENCE)
        or ([text.strip()] if text else [])
    )


def _at_numbers(text: str) -> list[str]:
    for pattern in (_STEP_MARK, _NUMBER_MARK):
        marks = _outside(pattern, text)
        starts: list[int] = []  # of n, n + 1, ...; one out of line, or of a nested list, is text
        for mark in marks:
            is_next = int(mark[1]) == int(marks[0][1]) + len(starts)
            if is_next and abs(_indentation(mark) - _indentation(marks[0])) <= 1:
                starts.append(mark.start())
        if len(starts) < 2:
            continue
        introduction, *steps, last = _pieces(text, starts)
        gaps = [gap.end() for gap in _outside(_BLANK, last)]
        steps += _pieces(last, [end for end in gaps if _CONCLUDES.match(last, end)][:1])
        if introduction.strip() and not _introduces(introduction):
            steps.insert(0, introduction)
        else:
            steps[0] = introduction + steps[0]
        return [step.strip() for step in steps]
    return []


def _indentation(mark: re.Match[str]) -> int:
    return len(mark[0]) - len(mark[0].lstrip())


def _at_blank_lines(text: str) -> list[str]:
    blocks = _whole_steps(text, _BLANK)
    one_line_last = len(blocks) == 2 and "\n" in blocks[0] and "\n" not in blocks[1]
    return [] if one_line_last and _CONCLUDES.match(blocks[1]) else blocks


def _whole_steps(text: str, gap: re.Pattern[str]) -> list[str]:
    """Pieces between gaps, those put together that make one step; none if that makes only one."""
    steps: list[str] = []
    waiting = ""  # introductions and headings
    for piece in _pieces(text, [match.end() for match in _outside(gap, text)]):
        if steps and not waiting and (not piece.strip() or _continues(piece, steps[-1])):
            steps[-1] += piece
        elif _introduces(piece) or not piece.strip():
            waiting += piece
        else:
            steps.append(waiting + piece)
            waiting = ""
    if waiting.strip():
        steps.append(waiting)
    return [step.strip() for step in steps] if len(steps) > 1 else []


def _introduces(piece: str) -> bool:
    stripped = piece.strip()
    return stripped.rstrip("*_").endswith(":") or _HEADING.fullmatch(stripped) is not None


def _continues(piece: str, before: str) -> bool:
    stripped = piece.strip()
    return (
        piece[:2] in ("  ", "\t")
        or stripped.startswith(("|", "<llm-code-output>"))
        or _DISPLAY.fullmatch(stripped) is not None
        or (stripped[:1].islower() and _ENDS_IN_DISPLAY.search(before) is not None)
    )


def _outside(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Matches that touch neither code nor math."""
    whole: list[tuple[int, int]] = []  # in order, without overlap
    for start, end in sorted(m.span() for p in (_WHOLE, _INLINE_MATH) for m in p.finditer(text)):
        if whole and start < whole[-1][1]:
            start, end = whole[-1][0], max(end, whole.pop()[1])
        whole.append((start, end))
    ends = [0, *(end for _, end in whole)]
    starts = [start for start, _ in whole]
    # the last one that begins before the end of the match must have ended
    return [m for m in pattern.finditer(text) if ends[bisect_left(starts, m.end())] <= m.start()]


def _pieces(text: str, starts: list[int]) -> list[str]:
    """The text cut before each of some places; joined they are the text."""
    return [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)]


# Rendered chat prompts. Templates are known by their form rather than by model: a *special token*
# such as <|im_start|>, <start_of_turn> or [INST] that names the user, or that is followed by the
# word user, opens the user's turn, and the next special token ends it.
_INNER = r"[A-Za-z_▁][\w▁ .:-]{1,40}"
_TOKEN = (
    rf"(?:<[|｜]{_INNER}[|｜]>|<\|{_INNER}>|<{_INNER}\|>"  # Phi, Qwen, Llama 3 and 4, DeepSeek, ...
    rf"|\[\|{_INNER}\|\]|\[/?INST\]|\]~\w+\]|\[e~\["  # EXAONE, Mistral, MiniMax
    r"|</?s>|<(?:bos|eos|eoh|pad)>|<(?:start|end)_of_\w+>|<extra_id_\d+>|<seed:\w+>"  # Gemma, ...
    r"|</?(?:system|user|human|assistant|bot)>|<reserved_\d+>)"  # RedPajama, Baichuan
)
_TOKEN_OF_USER = (
    r"(?:<[|｜]|\[\|)(?![^|｜]*end)[\w▁ -]*(?:user|human|prompter)[\w▁ -]*(?:[|｜]>|\|\])"
    rf"(?:user{_TOKEN}|:)?|<(?:user|human)>:?"
)
_USER_TURN = re.compile(
    rf"(?i:{_TOKEN_OF_USER}|{_TOKEN}\s*(?:user|human)(?:{_TOKEN}|:?[ \t]*\r?\n))|\[INST\]"
)
_ANY_TOKEN = re.compile(_TOKEN)
_LLAMA2_SYSTEM_END = "<</SYS>>"  # Llama 2 renders the system prompt inside the first user turn

# Templates without special tokens: a role at the start of a line, after a sentence or in capitals.
_ROLE = re.compile(
    r"(?:\A|\n|[.!?]\s*(?=#|Human|User))[ \t]*(?:[#*]+ *)?(?:(?i:Human|User|Instruct(?:ion)?) *:"
    r"(?:\*\*)?|(?:(?<=# )Instruction|user)[ \t]*\r?\n)|(?:\A|\s|</s>)USER:"
)
_ANSWER_ROLE = re.compile(
    r"\n[ \t]*(?:[#*]+ *)?(?:(?i:Assistant|Response) *:|(?:(?<=# )Response|assistant|model)\s)"
    r"|\sASSISTANT:|\s*(?:#+ *)?\b(?:Assistant|AI|Bot|GPT|Output) *:\s*(?:<think>\s*)?\Z"
)

_EDGE = r"(?:</?s>|<(?:bos|eos)>|<[|｜](?:(?:begin|end|start)[_▁]?of[_▁]?\w+|eot_id)[|｜]>)"
_EDGES = re.compile(rf"\A(?:\s*{_EDGE})+\s*|\s*(?:{_EDGE}\s*)+\Z")
_LEFT_OVER = re.compile(
    rf"(?m){_TOKEN}|<</?SYS>>|</?think>|^[ \t]*(?:#+ *)?(?:Human|Assistant|Response) *:"
    r"|(?<=\n)[^\W\d]\w{0,19} *[:：]\s*\Z"  # "Answer:" at the end
)


def cut_chat_markup(prompt: str) -> str:
    r"""The last user turn of a rendered chat prompt, stripped; other prompts come back as they are.

    A system prompt is left out. A turn that is never closed reaches to the end.

    >>> cut_chat_markup("<|user|>\nWhat is 2 + 3?<|end|>\n<|assistant|>\n")
    'What is 2 + 3?'
    >>> cut_chat_markup("Human: What is 2 + 3?\n\nAssistant:")
    'What is 2 + 3?'
    """
    turns = list(_USER_TURN.finditer(prompt))
    if turns:
        turn = prompt[turns[-1].end() :]
        end = _ANY_TOKEN.search(turn)
        return turn[: end.start() if end else None].rpartition(_LLAMA2_SYSTEM_END)[2].strip()
    text = _EDGES.sub("", prompt)
    roles = list(_ROLE.finditer(text))
    if roles:
        turn = text[roles[-1].end() :]
        end = _ANSWER_ROLE.search(turn)
        if end or roles[-1].start() == 0:
            return re.sub(
                r"\n *#+ *Input *:\s*", "\n", turn[: end.start() if end else None]
            ).strip()
    return text


def find_chat_markup(text: str) -> str:
    """The first thing in a text that looks like chat markup; empty without any."""
    found = _LEFT_OVER.search(text)
    return found[0].strip() if found else ""
