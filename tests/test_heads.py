"""What a head's rows mean, and that it computes in float32."""

import pytest
import torch
from torch.testing import assert_close

from prm_lightning.modeling.heads import LABELS, StepHead, verdict_ids


def test_classes_give_the_log_odds_of_correct():
    head, hidden = StepHead("classes", 16), torch.randn(7, 16)
    torch.nn.init.normal_(head.weight)
    probabilities = (hidden @ head.weight.T).softmax(-1)[:, LABELS.index("CORRECT")]
    assert_close(head(hidden).sigmoid(), probabilities)


@pytest.mark.parametrize("kind", ["scalar", "classes", "token"])
def test_heads_compute_in_float32_whatever_surrounds_them(kind):
    head, hidden = StepHead(kind, 512), torch.randn(9, 512)
    torch.nn.init.normal_(head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(hidden)
    rows = hidden.double() @ head.weight.double().T
    expected = rows[:, 1] - rows[:, 0] if kind == "classes" else rows[:, 0]
    assert logits.dtype == torch.float32
    assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["scalar", "classes", "token"])
def test_a_bias_is_added_to_each_row_and_fresh_heads_have_none(kind):
    assert [name for name, _ in StepHead(kind, 8).named_parameters()] == ["weight"]
    head, hidden = StepHead(kind, 8, biased=True), torch.randn(5, 8)
    before = head(hidden)
    torch.nn.init.normal_(head.bias)
    constant = head.bias[1] - head.bias[0] if kind == "classes" else head.bias[0]
    assert_close(head(hidden), before + constant)


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
