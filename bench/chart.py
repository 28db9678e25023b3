"""A bar chart as SVG, written by hand: legible on light and dark pages, and without a library."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 900
LABELS = 310
"""Width of the column of labels, in pixels like all lengths here."""

VALUES = 110
"""Room for the value behind the longest bar."""

LINE = 26
BAR = 16
TOP = 74

STYLE = """
svg { font: 14px system-ui, sans-serif; }
.page { fill: #ffffff; } text { fill: #1f2328; } .small { font-size: 12px; fill: #59636e; }
.title { font-size: 17px; font-weight: 600; }
.bar { fill: #8c959f; } .ours { fill: #0969da; } .range { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } text { fill: #f0f6fc; } .small { fill: #9198a1; }
  .bar { fill: #656c76; } .ours { fill: #4493f8; } .range { stroke: #f0f6fc; }
}
"""


class Bar(NamedTuple):
    """One bar.

    Attributes:
        label: What stands before it.
        value: Its length, and what stands behind it.
        lowest: Where the range line begins.
        highest: Where it ends.
        note: What stands behind the value.
        ours: Whether it is set off from the others.
    """

    label: str
    value: float
    lowest: float
    highest: float
    note: str
    ours: bool


def bar_chart(title: str, subtitle: str, bars: Sequence[Bar], footer: Sequence[str]) -> str:
    """Return an SVG document: a title, a line below it, bars from the top down, and small print."""
    height = TOP + LINE * len(bars) + 18 * len(footer) + 20
    scale = (WIDTH - LABELS - VALUES) / max(bar.highest for bar in bars)
    small_print = [_text(20, TOP + LINE * len(bars) + 18 * (i + 1), line, "small") for i, line in enumerate(footer)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
            _text(20, 30, title, "title"),
            _text(20, 52, subtitle, "small"),
            *(_bar(bar, TOP + LINE * i, scale) for i, bar in enumerate(bars)),
            *small_print,
            "</svg>\n",
        ]
    )


def _bar(bar: Bar, top: float, scale: float) -> str:
    middle = top + BAR / 2
    start, end = LABELS + bar.lowest * scale, LABELS + bar.highest * scale
    kind = "bar ours" if bar.ours else "bar"
    behind = f"{bar.value:.1f}{f' ({bar.note})' if bar.note else ''}"
    return "\n".join(
        [
            f'<text x="{LABELS - 10}" y="{middle + 5}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{bar.value * scale:.1f}" height="{BAR}"/>',
            f'<path class="range" d="M{start:.1f} {middle}H{end:.1f}"/>',
            _text(end + 8, middle + 5, behind),
        ]
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{escape(text)}</text>'
