"""What a head's rows mean, and that it computes in float32."""

import pytest
import torch
from torch.testing import assert_close

from prm_lightning.modeling.heads import LABELS, StepHead, verdict_ids


@pytest.mark.parametrize("kind", ["scalar", "classes", "token"])
@pytest.mark.parametrize("biased", [False, True])
def test_heads_compute_in_float32_whatever_surrounds_them(kind, biased):
    head, hidden = StepHead(kind, 512, biased=biased), torch.randn(9, 512)
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"][: 1 + biased]
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(hidden)
    rows = hidden.double() @ head.weight.double().T + (head.bias.double() if biased else 0)
    expected = rows[:, 0]
    if kind == "classes":
        expected = rows[:, LABELS.index("CORRECT")] - rows[:, LABELS.index("INCORRECT")]
    assert logits.dtype == torch.float32
    assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


def test_verdict_words_depend_on_the_template(tokenizer):
    wrong, right = verdict_ids(tokenizer, "chat")
    assert tokenizer.convert_ids_to_tokens([wrong, right]) == ["-", "+"]


def test_verdicts_that_begin_alike_are_refused():
    class Spelling:
        name_or_path = "spelling"

        def encode(self, word, add_special_tokens):
            return [7, *map(ord, word)]

    with pytest.raises(ValueError, match="begin with the same token"):
        verdict_ids(Spelling(), "guide")
