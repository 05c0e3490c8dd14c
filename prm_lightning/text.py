"""Pure string work on problems and steps. Nothing here evaluates what a text says."""

from __future__ import annotations

import re

# Where a user's turn opens in a rendered chat template, and what may close it.
_USER_TURNS = (
    ("<|user|>", ("<|end|>", "</s>", "<|assistant|>")),  # Phi, Zephyr
    ("<|im_start|>user", ("<|im_end|>",)),  # ChatML, Qwen
    ("<|start_header_id|>user<|end_header_id|>", ("<|eot_id|>",)),  # Llama 3
    ("[INST]", ("[/INST]",)),  # Llama 2, Mistral
)
_LLAMA2_SYSTEM_END = "<</SYS>>"  # Llama 2 renders the system prompt inside the first user turn

_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
# A mark holds an equation or a bare number; code such as `x << n >> 2` holds neither.
_CALCULATOR_MARK = re.compile(r"<<(?:[^<>=\n]*=[^<>\n]*|[\d.,]+)>>")
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Operators and brackets stay: without them 2+3 and 2-3 would be one problem.
_PUNCTUATION = re.compile(
    r"""[!"#$&',:;?@\\_`~¡¿«»\u2010-\u201f\u2026\u2032-\u203a\u3001\u3002]"""
    r"|\.(?!\d)"  # not a decimal point
    r"|(?<=[^\W\d_])-|-(?=[^\W\d_])"  # a hyphen, not a minus
)
_OPERATOR = re.compile(r"([-+*/^=<>()\[\]{}|%])")


def fold_newlines(text: str) -> str:
    """Strip a text and make each inner run of newlines, blank lines included, one ``\\n``.

    CRLF and CR count as newlines. The indentation of a line that follows another stays. The
    result never holds two newlines with only white space between them; folding twice changes
    nothing.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _BLANK_LINES.sub("\n", text).strip()


def normalise_problem(text: str) -> str:
    """The key by which copies of a problem are recognised.

    Case, white space, punctuation and thousands separators make no difference; digits, decimal
    points, operators and brackets do. A text of punctuation alone is its own key.
    """
    key = _THOUSANDS_COMMA.sub("", text.casefold())
    key = _OPERATOR.sub(r" \1 ", _PUNCTUATION.sub(" ", key))
    return " ".join(key.split()) or text.strip()


def cut_chat_markup(prompt: str) -> str:
    """The last user turn of a rendered chat prompt, stripped; other prompts come back as they are.

    Knows the markup of Phi and Zephyr, ChatML (Qwen), Llama 3, and Llama 2 (Mistral), whose
    system prompt is left out. A turn that is never closed reaches to the end.
    """
    for opening, closings in _USER_TURNS:
        start = prompt.rfind(opening)
        if start < 0:
            continue
        turn = prompt[start + len(opening) :]
        for closing in closings:
            turn = turn.partition(closing)[0]
        return turn.rpartition(_LLAMA2_SYSTEM_END)[2].strip()
    return prompt


def remove_calculator_marks(text: str) -> str:
    """Take out the calculator marks of GSM8K: ``2*3=<<2*3=6>>6`` becomes ``2*3=6``."""
    return _CALCULATOR_MARK.sub("", text)
