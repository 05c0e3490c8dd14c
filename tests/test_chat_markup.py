"""Rendered chat prompts: the question is cut out, and what is left over is seen."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_rows import write_lines

from prm_lightning.sources.mixture import SourceSpec, read_mixture
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.text import cut_chat_markup, find_chat_markup

QUESTION = "Is 3 < 4?\nSay | why: <b>x</b>."
TEMPLATES = {
    "Phi-3": "<|system|>\nBe brief.<|end|>\n<|user|>\n{}<|end|>\n<|assistant|>\n",
    "Zephyr": "<|user|>\n{}</s>\n<|assistant|>\n",
    "OLMo": "<|user|>\n{}<|endoftext|>\n<|assistant|>\n",
    "GLM": "[gMASK]<sop><|user|>\n{}<|assistant|>",
    "Phi-4": "<|im_start|>user<|im_sep|>{}<|im_end|><|im_start|>assistant<|im_sep|>",
    "Qwen": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "CRLF": "<|im_start|>user\r\n{}<|im_end|>\r\n",
    "Llama 2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{} [/INST]",
    "Llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nx<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "Llama 4": "<|begin_of_text|><|header_start|>user<|header_end|>\n\n{}<|eot|>"
    "<|header_start|>assistant<|header_end|>\n\n",
    "Mistral": "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]{}[/INST]",
    "Gemma": "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    "Gemma 4": "<|turn>user\n{}<turn|>\n<|turn>model\n",
    "DeepSeek": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>{}<｜Assistant｜><think>\n",
    "old DeepSeek": "<｜begin▁of▁sentence｜>User: {}\n\nAssistant:",
    "gpt-oss": "<|start|>system<|message|>x<|end|>"
    "<|start|>user<|message|>{}<|end|><|start|>assistant",
    "Granite": "<|start_of_role|>system<|end_of_role|>x<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>{}<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>",
    "Command-R": "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "Kimi": "<|im_user|>user<|im_middle|>{}<|im_end|><|im_assistant|>assistant<|im_middle|>",
    "EXAONE": "[|system|][|endofturn|]\n[|user|]{}\n[|assistant|]",
    "MiniMax": "]~b]user\n{}[e~[\n]~b]ai\n",
    "Nemotron": "<extra_id_0>System\n\n<extra_id_1>User\n{}\n<extra_id_1>Assistant\n",
    "Seed": "<seed:bos>user\n{}<seed:eos><seed:bos>assistant\n",
    "Apertus": "<|user_start|>{}<|user_end|><|assistant_start|>",
    "InternLM": "<|User|>:{}<eoh>\n<|Bot|>:",
    "Human": "\n\nHuman: {}\n\nAssistant:",
    "Vicuna": "A chat between a user and an assistant. USER: {} ASSISTANT:",
    "Alpaca": "Below is an instruction.\n\n### Instruction:\n{}\n\n### Response:\n",
    "OpenAssistant": "<|prompter|>{}<|endoftext|><|assistant|>",
    "RedPajama": "<human>: {}\n<bot>:",
    "tokens left out": "system\nBe brief.\nuser\n{}\nassistant\n",
    "R1-Zero": "User asks, Assistant thinks. User: {} Assistant: <think>",
    "Guanaco": "A chat between two.### Human: {}### Assistant:",
    "Alpaca without colons": "Below is one.\n\n### Instruction\n{}\n\n### Response\n",
    "Phi-2": "Instruct: {}\nOutput:",
    "bold": "**User:** {}\n**Assistant:**",
    "small": "user: {}\nassistant:",
    "two turns of Vicuna": "A chat. USER: first ASSISTANT: yes</s>USER: {} ASSISTANT:",
    "two turns": "<|user|>\nfirst<|end|>\n<|assistant|>\nyes<|end|>\n<|user|>\n{}<|end|>\n",
    "two turns of Mistral": "<s>[INST] first [/INST] yes </s><s>[INST] {} [/INST]",
    "two turns of Human": "Human: first\n\nAssistant: yes\n\nHuman: {}\n\nAssistant:",
    "never closed": "<|user|>\n{}",
    "no turns": "<s>{}</s>",
    "plain": "{}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_user_turn_is_cut_out_of_chat_markup(name):
    prompt = TEMPLATES[name].replace("{}", QUESTION)
    assert cut_chat_markup(prompt) == QUESTION
    assert find_chat_markup(QUESTION) == ""


MARKUP = re.compile(r"[<\[~|｜]|\b(?:Human|User|Instruction)\b", re.IGNORECASE)


@given(text=st.text(max_size=60).filter(lambda text: not MARKUP.search(text)))
def test_a_prompt_without_markup_stays_as_it_is(text):
    assert cut_chat_markup(text) == text


@pytest.mark.parametrize(
    "problem",
    [
        "Who is the user: Ann or Bo?\nThe user said 3 <|x|> 4.",
        "If |a| < |b| and <a|b> = 0, what is [a|b]?",
        "Use [INS] and <s1> and A[i] < B[j].",
    ],
)
def test_what_only_looks_a_little_like_markup_stays(problem):
    assert cut_chat_markup(problem) == problem
    assert not find_chat_markup(problem)


def test_the_input_of_alpaca_belongs_to_the_problem_and_a_cue_at_the_end_is_named():
    prompt = "### Instruction:\nAdd these.\n\n### Input:\n2, 3\n\n### Response:"
    assert cut_chat_markup(prompt) == "Add these.\n\n2, 3"
    assert find_chat_markup("Question: 2 + 3?\nAnswer:") == "Answer:"
    assert find_chat_markup("<reserved_106>2 + 3?<reserved_107>") == "<reserved_106>"


def test_problems_that_still_hold_markup_are_counted_and_named(tmp_path, caplog):
    row = {"completions": ["a"], "labels": [True]}
    unknown = "<|question|>2 + 3?<|reply|>"
    prompts = [unknown, "2 + 3?", unknown + "!", "<|im_start|>user\n2 + 3?<|im_end|>"]
    path = write_lines(tmp_path / "r.jsonl", *({"prompt": p, **row} for p in prompts))
    mixture = read_mixture([SourceSpec(Stepwise(path))])
    assert mixture.solutions[3].problem == "2 + 3?"
    assert mixture.report()["r"]["chat_markup"] == {
        "<|question|>": {"count": 2, "first": ["r:0", "r:2"]}
    }
    (message,) = caplog.messages
    assert "2 problems still hold" in message
    assert "'<|question|>', such as that of r:0" in message
