"""Matplotlib figures as SVG that takes its colours from the page.

Text and axes become ``currentColor`` and series become CSS variables, so one drawing reads on light and on dark paper. Text stays
text in the page's own font. The same figure gives the same bytes: no date, no random ids.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Marker colours, replaced in the SVG; matplotlib writes them as they are.
INK = "#010203"
ACCENT = "#010204"
SERIES = tuple(f"#0101{place:02x}" for place in range(16, 24))
# What a series is drawn in where the page does not set its variable.
FALLBACKS = ("#2a6a8c", "#b5542c", "#4f7f3f", "#86579c", "#a8842a", "#b04a6f", "#3f8a86", "#75706a")

SETTINGS: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cmcl_ray",
    # Names are shown as they are, also with dollar signs in them.
    "text.parse_math": False,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.6,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
}


def series_color(place: int) -> str:
    """Return the marker colour of a series by its place; colours repeat after eight."""
    return SERIES[place % len(SERIES)]


def to_svg(figure: Figure, title: str, key: str) -> str:
    """Return a figure as an ``<svg>`` element for a page.

    Args:
        figure: drawn with the marker colours of this module.
        title: what a screen reader says.
        key: prefix of the ids inside, different for each figure of a page; letters, digits and dashes.
    """
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})  # type: ignore[no-untyped-call]
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r' id="([^"]+)"', rf' id="{key}-\1"', text)
    text = re.sub(r"url\(#", f"url(#{key}-", text).replace('href="#', f'href="#{key}-')
    # The text's family comes from the page; sizes and alignment stay. Versions of matplotlib write it in one property or in two.
    text = re.sub(r"font: (?:[a-z]+ )*([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    text = text.replace(INK, "currentColor").replace(ACCENT, f"var(--accent, {FALLBACKS[0]})")
    for place, (marker, fallback) in enumerate(zip(SERIES, FALLBACKS, strict=True), start=1):
        text = text.replace(marker, f"var(--series-{place}, {fallback})")
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    opening = f'<svg role="img" aria-label="{_attribute(title)}" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return re.sub(r"<svg[^>]*>", f'{opening} xmlns:xlink="http://www.w3.org/1999/xlink">', text, count=1).strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace("\\", "/")


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw and save figures in this module's look, whatever the caller has set; the caller's settings come back after."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield
