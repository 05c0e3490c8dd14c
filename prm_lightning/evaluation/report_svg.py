"""Figures of matplotlib as SVG that takes its colours and fonts from the page it stands in."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from prm_lightning.training.figures import BLUE, GREY, RED

GREEN, VIOLET, ORANGE = "#2e7d32", "#7b3fa0", "#b35c00"
COLOURS = {  # of matplotlib, and what the page calls them in light and in dark
    BLUE: "var(--blue)",
    RED: "var(--red)",
    GREY: "var(--grey)",
    GREEN: "var(--green)",
    VIOLET: "var(--violet)",
    ORANGE: "var(--orange)",
    "#000000": "currentColor",
    "#ffffff": "var(--panel)",
    "#cccccc": "var(--line)",
    "#b0b0b0": "var(--line)",
}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which scales, is found and is read aloud
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}
META = ("Date", "Creator", "Format", "Type")
XLINK = "{http://www.w3.org/1999/xlink}href"
_HEX = re.compile(r"#[0-9a-fA-F]{6}\b")
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Chart(NamedTuple):
    """A picture for the page.

    Args:
        title: above it.
        alt: what it shows, in words.
        svg: an ``<svg>`` element; what was text in it is escaped.
    """

    title: str
    alt: str
    svg: str


@contextmanager
def styled() -> Iterator[None]:
    """How figures are drawn that become charts; `to_chart` has to be called inside it."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's browser has the font
        yield


def plain(text: str, longest: int = 40) -> str:
    """A name that XML can hold, that reorders nothing around it and that fits."""
    text = _UNPRINTABLE.sub("�", text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def to_chart(figure: Figure, title: str, alt: str) -> Chart:
    """A figure as part of a page.

    Args:
        figure: drawn inside `styled`. Its colours that `COLOURS` knows become the page's.
        title: of the chart.
        alt: what it shows, in words.
    """
    buffer = io.BytesIO()
    matplotlib.rcParams["svg.hashsalt"] = title  # the same figure has the same ids
    figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(META))
    return Chart(title, alt, _adopt(buffer.getvalue(), alt))


def _adopt(svg: bytes, alt: str) -> str:
    """The same picture for use inside a page: its colours, its fonts, no ids but those used."""
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    used = set(re.findall(rb'(?:url\(#|href="#)([^)"]+)', svg))
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]  # a page knows <svg> without its name space
        if element.get("id", "").encode() not in used:
            element.attrib.pop("id", None)
        if XLINK in element.attrib:
            element.set("href", element.attrib.pop(XLINK))
        if "style" in element.attrib:
            style = _HEX.sub(lambda m: COLOURS.get(m[0].lower(), m[0]), element.get("style", ""))
            element.set("style", re.sub(r"font: ([\d.]+px) [^;]+", r"font-size: \1", style))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", _UNPRINTABLE.sub("�", alt))
    return ET.tostring(root, encoding="unicode")
