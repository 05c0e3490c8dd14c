"""Fixtures: a tiny tokenizer and tiny models, made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("PRM_LIGHTNING_CACHE", "off")  # the suite leaves the user's cache alone
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # and asks no model hub
os.environ["NO_PROXY"] = "127.0.0.1"  # where tests have servers of their own
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")
torch.set_num_threads(1)  # tiny models gain nothing from more

DEV_DATA = Path(os.environ.get("DEV_DATA", Path(__file__).parents[2] / "shared" / "data"))


def dev_data(name: str) -> Path:
    """Path of a development file; skips the test, with the reason, where it is absent."""
    path = DEV_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set DEV_DATA to the folder of development data")
    return path


CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|spare|>"]
CORPUS = [
    "Ann has 3 apples and buys 12 more apples. How many apples does she have now?",
    "She has 3 + 12 = 15 apples. So the answer is 15.",
    "A train runs 60 miles in 2 hours, so its speed is 60 / 2 = 30 miles an hour.",
    "### Question: ### Partial Solution: ### Evaluate this step: CORRECT INCORRECT + -",
    "\n\n",
    "\n",
]


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of 400 tokens with a chat template and one spare special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS * 5,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|spare|>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


KINDS: dict[str, dict] = {  # what differs from a plain one; windows and switches are short
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 24},
    "gemma3_text": {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_oss": {
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "phi3": {
        "sliding_window": 24,
        "original_max_position_embeddings": 128,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 128,
            "short_factor": [1.0] * 4,
            "long_factor": [1.2, 2.0, 6.0, 20.0],
        },
        "pad_token_id": 0,
    },
}


def tiny_config(kind: str = "llama", **changes):
    """A two-layer configuration of 400 tokens and width 32."""
    from transformers import AutoConfig

    settings = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    return AutoConfig.for_model(kind, **(settings | KINDS.get(kind, {}) | changes))


@pytest.fixture(scope="session")
def tiny_model_folder(tokenizer, tmp_path_factory):
    """`tiny_model_folder("qwen3")`: a saved random model with its tokenizer, as on the Hub."""
    from transformers import AutoModelForCausalLM

    folders: dict[str, Path] = {}

    def build(kind: str = "llama", **changes) -> Path:
        key = f"{kind}-{sorted(changes.items())}"
        if key not in folders:
            folder = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(tiny_config(kind, **changes))
            with torch.no_grad():  # the default init is so small that attention hardly matters
                for parameter in model.parameters():
                    if parameter.ndim == 2:
                        parameter.normal_(std=0.15)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            folders[key] = folder
        return folders[key]

    return build
