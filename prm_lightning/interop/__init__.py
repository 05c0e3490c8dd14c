"""Our models in the formats of others, and models of others as folders of ours."""

from typing import Literal

# Of the command line too, so that nothing heavy is imported here.
Format = Literal[
    "token-classification", "sequence-classification", "qwen-prm", "causal-lm", "adapter"
]
ExportDtype = Literal["bf16", "fp32"]
LabelNames = Literal["INCORRECT/CORRECT", "LABEL_0/LABEL_1"]
MergeInto = Literal["dequantized", "original"]

# Names of the files of an exported or imported folder, apart from its record.
MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "adapter_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "*.model", "*.jinja", "README.md", "prm.json", "scorer.json",
)  # fmt: skip
