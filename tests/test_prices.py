"""What requests to Claude cost, and which models may be asked."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.labelling.prices import SHIPPED, cost, load_prices, price_of, worst_cost

PRICES = load_prices()
TODAY = date(2026, 11, 21)
TOKENS = st.integers(0, 150_000)


def usage(new=0, five=0, hour=0, read=0, out=0, **more):
    return {
        "input_tokens": new,
        "cache_creation_input_tokens": five + hour,
        "cache_creation": {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour},
        "cache_read_input_tokens": read,
        "output_tokens": out,
    } | more


@pytest.mark.parametrize(
    ("model", "used", "batch", "usd"),
    [
        # 350 * 2 + 350 * 10, per million
        ("claude-sonnet-5-5", usage(new=350, out=350), False, 0.0042),
        ("claude-sonnet-5-5", usage(new=350, out=350), True, 0.0021),
        # 1200 tokens of rubric written for an hour at 4, later read at 0.10
        ("claude-sonnet-5-5", usage(hour=1200), False, 0.0048),
        ("claude-sonnet-5-5", usage(five=1200), False, 0.0030),
        ("claude-sonnet-5-5", usage(read=1200), False, 0.00012),
        ("claude-sonnet-5-5", usage(new=350, out=350, inference_geo="us"), False, 0.00462),
        # above 100,000 prompt tokens, cached ones included, everything costs five times as much
        ("claude-haiku-5-5", usage(new=100_000), False, 0.01),
        ("claude-haiku-5-5", usage(new=60_000, read=40_001, out=1000), False,
         5 * (0.006 + 0.00040001 + 0.0005)),
        ("claude-opus-5-5", {"input_tokens": 10, "output_tokens": None}, False, 0.00004),
    ],
)  # fmt: skip
def test_what_an_answer_cost(model, used, batch, usd):
    assert cost(PRICES[model], used, batch=batch) == pytest.approx(usd, rel=1e-9)


@given(
    model=st.sampled_from(sorted(PRICES)), batch=st.booleans(), new=TOKENS, five=TOKENS,
    hour=TOKENS, read=TOKENS, out=st.integers(0, 4000),
    geography=st.sampled_from([None, "us", "global"]),
)  # fmt: skip
def test_no_answer_costs_more_than_the_worst(model, batch, new, five, hour, read, out, geography):
    used = usage(new, five, hour, read, out, inference_geo=geography)
    worst = worst_cost(PRICES[model], new + five + hour + read, 4000, batch=batch)
    assert cost(PRICES[model], used, batch=batch) <= worst


def test_a_model_without_a_price_and_a_retired_one_are_refused():
    assert price_of(PRICES, "claude-sonnet-5-5", TODAY).input == 2
    with pytest.raises(ValueError, match=r"'claude-sonnet-9' has no price.*claude-haiku-5-5"):
        price_of(PRICES, "claude-sonnet-9", TODAY)
    with pytest.raises(ValueError, match=r"retired on 2026-06-15.*claude-sonnet-5-5"):
        price_of(PRICES, "claude-sonnet-4-20250514", TODAY)
    assert price_of(PRICES, "claude-sonnet-4-20250514", date(2026, 6, 15)).output == 15


def test_a_file_of_ones_own_overrides_and_adds(tmp_path):
    file = tmp_path / "prices.yaml"
    entry = "{input: 1, output: 2, write_5m: 3, write_1h: 4, read: 0.5}"
    file.write_text(f"batch_factor: 0.25\nmodels:\n  claude-new: {entry}\n")
    prices = load_prices(str(file))
    assert prices["claude-new"].batch_factor == 0.25
    assert prices["claude-haiku-5-5"] == PRICES["claude-haiku-5-5"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models:\n  m: {input: 1}\n", "'output', 'write_5m'"),
        ("models:\n  m: {input: free, output: 1, write_5m: 1, write_1h: 1, read: 1}\n", "'free'"),
        ("models:\n  m: {input: -1, output: 1, write_5m: 1, write_1h: 1, read: 1}\n", "-1"),
        ("models:\n  m: {inptu: 1}\n", "inptu"),
        ("prices: {}\n", "models"),
        ("models: [", "not YAML"),
    ],
)
def test_a_wrong_price_file_says_what_is_wrong(tmp_path, text, said):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load_prices(str(file))
    assert "\n" not in str(caught.value)


def test_the_shipped_prices_are_dated():
    assert "as_of: 2026-" in SHIPPED.read_text()
