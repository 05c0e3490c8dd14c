"""Hand-written word problems by theme, each for training or for validation, never both."""

from prm_lightning.sources.word_problems import (
    ages,
    conversions,
    geometry,
    lengths,
    mixtures,
    percentages,
    sequences,
    shopping,
    splits,
    travel,
    work,
)
from prm_lightning.sources.word_problems.template import Template

THEMES = (
    shopping,
    percentages,
    travel,
    ages,
    mixtures,
    geometry,
    work,
    splits,
    sequences,
    conversions,
    lengths,
)

TEMPLATES: tuple[Template, ...] = tuple(
    template for theme in THEMES for template in theme.TEMPLATES
)
