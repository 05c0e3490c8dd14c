r"""Rendered chat prompts: the question in them, and what is left where a template is unknown.

Templates are known by their form rather than by model: a *special token* such as ``<|im_start|>``,
``<start_of_turn>`` or ``[INST]`` that names the user, or that is followed by the word ``user``,
opens the user's turn, and the next special token ends it.
"""

from __future__ import annotations

import re

_INNER = r"[A-Za-z_▁][\w▁ .:-]{1,40}"
_TOKEN = (
    rf"(?:<[|｜]{_INNER}[|｜]>|<\|{_INNER}>|<{_INNER}\|>"  # Phi, Qwen, Llama 3 and 4, DeepSeek, ...
    rf"|\[\|{_INNER}\|\]|\[/?INST\]|\]~\w+\]|\[e~\["  # EXAONE, Mistral, MiniMax
    r"|</?s>|<(?:bos|eos|eoh|pad)>|<(?:start|end)_of_\w+>|<extra_id_\d+>|<seed:\w+>)"  # Gemma, ...
)
_TOKEN_OF_USER = (
    r"(?:<[|｜]|\[\|)(?![^|｜]*end)[\w▁ -]*(?:user|human)[\w▁ -]*(?:[|｜]>|\|\])"
    rf"(?:user{_TOKEN}|:)?"
)
_USER_TURN = re.compile(
    rf"(?i:{_TOKEN_OF_USER}|{_TOKEN}\s*(?:user|human)(?:{_TOKEN}|:?[ \t]*\r?\n))|\[INST\]"
)
_ANY_TOKEN = re.compile(_TOKEN)
_LLAMA2_SYSTEM_END = "<</SYS>>"  # Llama 2 renders the system prompt inside the first user turn

# Templates without special tokens: the role at the start of a line, or in capitals (Vicuna).
_ROLE = re.compile(r"(?:\A|\n)[ \t]*(?:#+ *)?(?:Human|User|Instruction) *:|(?:\A|\s)USER:")
_ANSWER_ROLE = re.compile(r"\n[ \t]*(?:#+ *)?(?:Assistant|Response) *:|\sASSISTANT:")

_EDGE = r"(?:</?s>|<(?:bos|eos)>|<[|｜](?:(?:begin|end|start)[_▁]?of[_▁]?\w+|eot_id)[|｜]>)"
_EDGES = re.compile(rf"\A(?:\s*{_EDGE})+\s*|\s*(?:{_EDGE}\s*)+\Z")
_LEFT_OVER = re.compile(
    rf"{_TOKEN}|<</?SYS>>|</?think>|^[ \t]*(?:#+ *)?(?:Human|Assistant|Response) *:", re.MULTILINE
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
            return turn[: end.start() if end else None].strip()
    return text


def find_chat_markup(text: str) -> str:
    """The first thing in a text that looks like chat markup; empty without any."""
    found = _LEFT_OVER.search(text)
    return found[0].strip() if found else ""
