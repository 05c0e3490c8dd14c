"""Fixtures: a tiny tokenizer and tiny models, made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")

DEV_DATA = Path(os.environ.get("DEV_DATA", Path(__file__).parents[2] / "shared" / "data"))


def dev_data(name: str) -> Path:
    """Path of a development file; skips the test, with the reason, where it is absent."""
    path = DEV_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set DEV_DATA to the folder of development data")
    return path
