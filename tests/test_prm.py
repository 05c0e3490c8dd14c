"""One forward pass over token trees equals one row a solution and one forward a prefix."""

import random
import shutil

import pytest
import torch
from torch.testing import assert_close

from prm_lightning.batching.data import collate, encode_solutions, measure
from prm_lightning.batching.plan import Planner
from prm_lightning.modeling.backbone import Backbone, Lora
from prm_lightning.modeling.heads import USUAL
from prm_lightning.modeling.losses import reward_weighted_loss
from prm_lightning.modeling.prm import PRM
from prm_lightning.types import Solution, Step

TEMPLATES = ["chat", "plain", "guide"]
LINEAR_HEADS = ["scalar", "classes", "token"]
HEADS = [*LINEAR_HEADS, "two_layers"]
LORA = Lora(r=4, alpha=8)


def tiny_prm(folder, head="scalar", template="chat", **backbone):
    torch.manual_seed(1)
    settings = {"dtype": "float32", "lora": LORA} | backbone
    prm = PRM.create(Backbone(str(folder), **settings), head, template)
    with torch.no_grad():  # a fresh adapter adds nothing, and then its gradients are half zero
        for name, parameter in prm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return prm.eval()


def rollouts(problems=2, attempts=5, seed=0):
    """Solutions that share some first steps, with labels and weights of all kinds."""
    rng = random.Random(seed)
    texts = [f"She has {a} + {b} = {a + b} apples." for a in range(3) for b in range(3)]
    solutions = []
    for p in range(problems):
        trunk = [rng.choice(texts) for _ in range(4)]
        for a in range(attempts):
            kept = trunk[: rng.randrange(4)]
            own = [rng.choice(texts) for _ in range(rng.randrange(1, 3))]
            steps = tuple(
                Step(text, rng.choice([0.0, 0.3, 1.0]), rng.choice([0.0, 0.5, 1.0]))
                for text in (*kept, *own)
            )
            solutions.append(Solution(f"Ann has {p} apples. How many?", steps, "test", f"{p}-{a}"))
    return solutions


def batches_of(prm, solutions, tokens_per_batch=4096, max_tokens=2048, tails=True):
    data = encode_solutions(solutions, prm.encoder, max_tokens, tails=tails)
    planner = Planner(measure(data), tokens_per_batch)
    return [collate(batch, data, pad_id=0) for (batch,) in planner.evaluation_steps()]


def naive_logits(prm, solution):
    """One forward a step over the prefix alone, without mask, positions or batch."""
    model = prm.backbone.causal_lm
    logits = []
    for k in range(1, len(solution.steps) + 1):
        path = prm.encode(solution.problem, [step.text for step in solution.steps[:k]])
        hidden = model.base_model(torch.tensor([path.input_ids]), use_cache=False)
        usual = [torch.full((1,), USUAL)] if prm.head.likelihood is not None else []
        logits.append(prm.head(hidden.last_hidden_state[0, -1:], *usual))
    return torch.cat(logits)


def gradients(prm):
    return {n: p.grad.clone() for n, p in prm.named_parameters() if p.grad is not None}


def tolerance(reference):
    return 1e-5 * reference.abs().max().item()


@pytest.mark.parametrize(
    ("kind", "template", "head"),
    [(kind, template, "scalar") for kind in ("llama", "qwen3") for template in TEMPLATES]
    + [("qwen3", "guide", head) for head in HEADS[1:]],
)
def test_trees_equal_one_forward_a_prefix(tiny_model_folder, kind, template, head):
    prm = tiny_prm(tiny_model_folder(kind), head, template)
    solutions = rollouts()
    expected = [naive_logits(prm, s).detach() for s in solutions]
    largest = torch.cat(expected)
    for budget in (4096, 256):  # several trees a row, and problems split over rows
        for batch in batches_of(prm, solutions, budget):
            logits = prm(batch).detach()
            for row, i, n in zip(logits, batch.solution_ids, batch.step_counts, strict=True):
                assert_close(row[:n], expected[i], rtol=0, atol=tolerance(largest))


@pytest.mark.parametrize("tails", [True, False])
@pytest.mark.parametrize("template", TEMPLATES)
def test_loss_and_gradients_equal_one_row_a_solution(tiny_model_folder, template, tails):
    prm = tiny_prm(tiny_model_folder("qwen3"), template=template)
    solutions = rollouts(seed=3)
    weights = [step.weight for s in solutions for step in s.steps]
    total = torch.tensor(sum(weights))

    loss = torch.zeros(())
    for s in solutions:
        labels = torch.tensor([[step.label for step in s.steps]])
        row_weights = torch.tensor([[step.weight for step in s.steps]])
        loss = loss + reward_weighted_loss(naive_logits(prm, s)[None], labels, row_weights, total)
    loss.backward()
    expected = gradients(prm)

    prm.zero_grad()
    for batch in batches_of(prm, solutions, tokens_per_batch=512, tails=tails):
        part = reward_weighted_loss(prm(batch), batch.labels, batch.weights, total)
        part.backward()
        loss = loss - part.detach()
    assert abs(loss.item()) < 1e-5
    actual = gradients(prm)
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        assert_close(gradient, expected[name], rtol=0, atol=tolerance(expected[name]), msg=name)


def test_only_steps_that_no_loss_depends_on_are_left_out(tiny_model_folder):
    encoder = tiny_prm(tiny_model_folder()).encoder
    wrong_then = (Step("One.", 1.0), Step("Two.", 0.0), Step("Three.", None), Step("4.", 1.0, 0.0))
    solutions = [
        Solution("How many?", wrong_then, "test", "0"),
        Solution("How many?", wrong_then[2:], "test", "1"),
        Solution("How many?", (*wrong_then, Step("Five.", 1.0)), "test", "2"),
    ]
    whole = encode_solutions(solutions, encoder, 2048)
    cut = encode_solutions(solutions, encoder, 2048, tails=False)
    assert [len(cut.solution(i)[1]) for i in range(3)] == [2, 1, 5]
    assert cut.counts == {"unsupervised steps at the end": 3}
    assert cut.first_errors.tolist() == whole.first_errors.tolist()
    for i in range(3):
        ids, positions = cut.solution(i)
        assert ids.tolist() == whole.solution(i)[0][: positions[-1] + 1].tolist()


def test_score_does_not_depend_on_company(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder())
    solutions = [[step.text for step in s.steps] for s in rollouts(problems=1)]
    together = prm.score("How many?", solutions)
    alone = [prm.score("How many?", [s])[0] for s in solutions]
    backwards = prm.score("How many?", solutions[::-1], tokens_per_batch=128)[::-1]
    for a, b, c, s in zip(together, alone, backwards, solutions, strict=True):
        assert len(a) == len(s)
        assert a == pytest.approx(b, abs=1e-6)
        assert a == pytest.approx(c, abs=1e-6)


@pytest.mark.parametrize(
    ("head", "lora"),
    [(head, LORA) for head in HEADS]
    + [("scalar", None), ("two_layers", Lora(r=4, train_step_end=True))],
)
def test_a_saved_model_scores_the_same(tiny_model_folder, tmp_path, head, lora):
    prm = tiny_prm(tiny_model_folder("qwen3"), head, lora=lora)
    with torch.no_grad():
        for parameter in prm.parameters():
            if parameter.requires_grad:
                parameter += 0.01
    solutions = [[step.text for step in s.steps] for s in rollouts(problems=1)]
    prm.save_pretrained(tmp_path / "model")
    again = PRM.from_pretrained(tmp_path / "model")
    assert again.score("How many?", solutions) == prm.score("How many?", solutions)
    assert again.manifest == prm.manifest
    assert not list(tmp_path.glob(".*"))
    assert not list((tmp_path / "model").glob("*.bin"))


def test_a_model_is_not_overwritten_unasked_and_a_missing_base_model_is_named(
    tiny_model_folder, tmp_path
):
    base = shutil.copytree(tiny_model_folder(), tmp_path / "base")
    prm = tiny_prm(base)
    prm.save_pretrained(tmp_path / "model")
    with pytest.raises(FileExistsError, match="model exists"):
        prm.save_pretrained(tmp_path / "model")
    prm.save_pretrained(tmp_path / "model", overwrite=True)
    shutil.rmtree(base)
    with pytest.raises(ValueError, match=r"there is no folder or file .*base"):
        PRM.from_pretrained(tmp_path / "model")


def test_scoring_never_cuts(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder("llama", max_position_embeddings=64))
    with pytest.raises(ValueError, match="longer than the context of 64 tokens"):
        prm.score("How many?", [["She has 3 apples."] * 20])


def test_the_token_head_starts_as_the_difference_of_two_lm_head_rows(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder("llama", tie_word_embeddings=False), "token")
    lm = prm.backbone.causal_lm.lm_head
    wrong, right = (
        prm.encoder.tokenizer.encode(text, add_special_tokens=False)[0] for text in "-+"
    )
    hidden = torch.randn(5, 32)
    expected = lm(hidden)[:, right] - lm(hidden)[:, wrong]
    assert_close(prm.head(hidden), expected)


@pytest.mark.slow
def test_flex_attention_equals_the_dense_mask(tiny_model_folder):
    folder = tiny_model_folder("qwen3")
    dense, flex = tiny_prm(folder), tiny_prm(folder, attention="flex")
    (batch,) = batches_of(dense, rollouts())
    with torch.no_grad():
        assert_close(flex(batch), dense(batch), rtol=0, atol=1e-5)


def test_one_solution_may_be_given_as_its_steps(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder())
    steps, other = ["1 + 1 = 2.", "So 2."], ["It is 3."]
    one, two = prm.score("1 + 1?", [steps, other])
    assert prm.score("1 + 1?", steps) == pytest.approx(one, abs=1e-6)
    assert prm.score("1 + 1?", tuple(other)) == pytest.approx(two, abs=1e-6)
    assert prm.score("1 + 1?", []) == []


@pytest.mark.parametrize("given", ["So 2.", [["So 2."], "So 3."]])
def test_a_text_in_place_of_steps_is_refused(tiny_model_folder, given):
    prm = tiny_prm(tiny_model_folder())
    for call in (prm.score, prm.encode, prm.rank, lambda p, s: list(prm.score_all([(p, [s])]))):
        with pytest.raises(ValueError, match="where the steps of a solution are expected"):
            call("1 + 1?", given if isinstance(given, str) else given[1])
    with pytest.raises(ValueError, match="where the steps of a solution are expected"):
        prm.score("1 + 1?", given)


def test_solutions_are_ranked_by_the_models_own_aggregation(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder())
    solutions = [[s.text for s in solution.steps] for solution in rollouts(problems=1)]
    scores = prm.score("How many?", solutions)
    prm.record(threshold=sorted(x for row in scores for x in row)[3])
    ranked = prm.rank("How many?", solutions)
    assert sorted(one.index for one in ranked) == list(range(len(solutions)))
    assert [one.score for one in ranked] == sorted(map(min, scores), reverse=True)
    for one in ranked:
        flagged = [score < prm.threshold for score in scores[one.index]]
        assert one.first_flagged == (flagged.index(True) if any(flagged) else -1)
    assert {one.first_flagged for one in ranked} > {-1}
    assert prm.rank("How many?", solutions[0])[0].index == 0


def test_a_model_shows_itself_in_a_few_lines(tiny_model_folder):
    shown = repr(tiny_prm(tiny_model_folder(), "classes", "plain"))
    assert shown.startswith("PRM(") and len(shown.splitlines()) <= 5
    assert all(part in shown for part in ("classes", "plain", "threshold=0.500", "on cpu"))
