"""Options of the verbs `export` and `import`: our models for others, and models of others for us.

Of the command line too, so that nothing heavy is imported here.
"""

from dataclasses import dataclass
from typing import Literal

Format = Literal[
    "token-classification", "sequence-classification", "qwen-prm", "causal-lm", "adapter"
]
ShortDtype = Literal["bf16", "fp32"]
DTYPES: dict[ShortDtype, Literal["bfloat16", "float32"]] = {"bf16": "bfloat16", "fp32": "float32"}

# Names of the files of an exported or imported folder, apart from its record.
MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "adapter_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "*.model", "*.jinja", "README.md", "prm.json", "scorer.json",
)  # fmt: skip


@dataclass(frozen=True)
class ExportOptions:
    """Write a trained model as a checkpoint that others load without code of this project.

    Args:
        model: a folder such as outputs/x/best_model, or the name of a model that comes with the
            package, such as smollm2-135m-prm.
        output: folder to write; it appears only if the checkpoint scores as the model does.
        format: token-classification for transformers and vLLM; sequence-classification for servers
            that read the last token, SGLang among them; qwen-prm for Qwen2 and Qwen2.5 backbones
            in the layout of Qwen2.5-Math-PRM; causal-lm for token heads; adapter for PEFT.
        dtype: of the tensors; of `adapter`, of the base model in the check.
        labels: names of the labels 0 and 1; some tools look for LABEL_1.
        merge_into: what the adapters of a quantized model are added to: its dequantized weights,
            or the original ones, on which they were not trained.
        tolerance: largest difference in P(correct) that is allowed, in [0, 1]; 1e-5 in fp32,
            else 0.1 and on average 0.01, if not given.
        device: cpu, cuda, cuda:1 and so on; the first GPU, if there is one, if not given.
        push_to_hub: owner/name of a repository on the Hugging Face Hub that gets the folder once it
            has passed; it is made if it does not exist. The token is HF_TOKEN or HF_AUTH_TOKEN,
            from the environment or .env. Without this option nothing is sent anywhere.
        visibility: of that repository if it is made; one that exists keeps its own.
        trust_remote_code: run Python code that comes with the base model.
        overwrite: replace an earlier export; other folders are never replaced.
    """

    model: str
    output: str
    format: Format = "token-classification"
    dtype: ShortDtype = "bf16"
    labels: Literal["INCORRECT/CORRECT", "LABEL_0/LABEL_1"] = "INCORRECT/CORRECT"
    merge_into: Literal["dequantized", "original"] = "dequantized"
    tolerance: float | None = None
    device: str | None = None
    push_to_hub: str | None = None
    visibility: Literal["private", "public"] = "private"
    trust_remote_code: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ImportOptions:
    """Turn a public process reward model into a folder that `fit` and `export` start from.

    Args:
        model: folder, Hub id or manifest file, as for `score`; docs/scoring.md tells more.
        output: folder to write; it appears only if it scores as the public model does.
        dtype: of the computation.
        encoding: exact refuses a model whose way to build tokens is not ours; nearest takes the
            nearest that is, measures what that changes and records it.
        bias: of the head. keep is exact; drop takes it off all log-odds, moves the threshold as far
            and records it, for exports to sequence-classification, which has no place for one. A
            head of two layers has to keep its biases.
        tolerance: largest difference in P(correct) that is allowed, in [0, 1]; 1e-5 in fp32,
            else 0.1 and on average 0.01, if not given.
        overwrite: replace an earlier import; other folders are never replaced.
    """

    model: str
    output: str
    dtype: ShortDtype = "bf16"
    encoding: Literal["exact", "nearest"] = "exact"
    bias: Literal["keep", "drop"] = "keep"
    tolerance: float | None = None
    overwrite: bool = False
