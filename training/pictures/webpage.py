"""Draws panels as one HTML file to explore: pointing at a word shows its nearest words in every panel.

Bokeh's library (1.3 MB, a third of Plotly's) is written into the file, which needs no other file and no network. The
browser's own font draws the words, so no font has to be installed where the page is made; the width of words is
estimated, and zooming in makes room.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.embed import file_html
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, CustomJS, Div, HoverTool, Plot
from bokeh.plotting import figure
from bokeh.resources import INLINE

from training.files import write_text
from training.pictures.labels import Box, place_all
from training.pictures.panel import Panel
from training.pictures.readings import similarities

SIDE = 660  # pixels of a panel
FONT_SIZE = 12  # pixels
FONTS = "'Noto Sans CJK SC', 'Noto Sans SC', 'PingFang SC', 'Microsoft YaHei', sans-serif"
INK, ACCENT, NEIGHBOUR, FAINT = "#3b4148", "#1f5fa8", "#c2410c", "#d5dae0"
NEIGHBOURS = 6
NEAR = 8  # pixels between a point and its label up to which no line is drawn
MARGIN = 0.08
HEAD = f"""<div style="font: 14px/1.5 {FONTS}; color: {INK}; width: 1300px">
<b style="font-size: 18px">Words as each model sees them</b><br>
Point at a word: in every panel its {NEIGHBOURS} nearest words, by the cosine of the vectors themselves, turn
<span style="color: {NEIGHBOUR}">orange</span>. <span style="color: {ACCENT}">Blue</span> lines join pairs of related
words. t-SNE keeps neighbours, not distances: read the groups, not the gaps. Drag to move, scroll to
zoom.</div>"""
# Called when a word is pointed at: highlights it and its neighbours in every panel.
POINT = """
const pointed = cb_data.index.indices;
const key = pointed.length ? pointed[0] : -1;
if (key === window.danmaku_pointed) return;
window.danmaku_pointed = key;
sources.forEach((source) => {
  const data = source.data, near = key < 0 ? [] : data.near[key];
  for (let i = 0; i < data.text.length; i++) {
    const is_near = near.includes(i) || i === key;
    data.colour[i] = is_near ? highlight : data.own[i];
    data.alpha[i] = key < 0 || is_near ? 1 : 0.25;
    data.size[i] = is_near ? 8 : 5;
  }
  source.change.emit();
});
"""


def draw(panels: Sequence[Panel], output: Path) -> None:
    """Draws the panels side by side in one page."""
    sources = [_make_source(panel) for panel in panels]
    point = CustomJS(args={"sources": sources, "highlight": NEIGHBOUR}, code=POINT)
    plots = [_make_plot(panel, source, point) for panel, source in zip(panels, sources, strict=True)]
    page = column(Div(text=HEAD, disable_math=True), row(*plots))
    write_text(output, file_html(page, INLINE, title=" · ".join(panel.model for panel in panels)))


def _make_source(panel: Panel) -> ColumnDataSource:
    cosines = similarities(panel.vectors)
    np.fill_diagonal(cosines, np.nan)
    count = len(panel.indices) - 1
    near = [[int(n) for n in np.argsort(-line, kind="stable")[: min(NEIGHBOURS, count)]] for line in cosines]
    for number in set(range(len(near))) - set(panel.indices.tolist()):
        near[number] = []
    read = {number for pair in panel.pairs for number in pair}
    own = [ACCENT if number in read else INK for number in range(len(panel.texts))]
    offsets = _offsets(panel)
    return ColumnDataSource(
        {
            "x": panel.points[:, 0],
            "y": panel.points[:, 1],
            "text": panel.texts,
            "near": near,
            "nearest": [
                ", ".join(f"{panel.texts[n]} {cosines[i, n]:.2f}" for n in line) for i, line in enumerate(near)
            ],
            "own": own,
            "colour": list(own),
            "alpha": [1.0] * len(own),
            "size": [5] * len(own),
            "dx": offsets[:, 0],
            "dy": offsets[:, 1],
        }
    )


def _make_plot(panel: Panel, source: ColumnDataSource, point: CustomJS) -> Plot:
    (x_range, y_range), model = _ranges(panel.points), panel.model
    plot = figure(
        title=model,
        frame_width=SIDE,
        frame_height=SIDE,
        x_range=x_range,
        y_range=y_range,
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        toolbar_location="above",
        outline_line_color=FAINT,
    )
    plot.toolbar.logo = None
    plot.axis.visible = False
    plot.grid.visible = False
    plot.title.text_font_size = "18px"
    plot.title.text_color = INK
    plot.title.text_font = FONTS
    plot.ray(
        "x",
        "y",
        length="far",
        length_units="screen",
        angle="towards",
        color=FAINT,
        source=ColumnDataSource(_leaders(panel, source)),
    )
    for pair in panel.pairs:
        plot.line(*panel.points[list(pair)].T, color=ACCENT, alpha=0.25, line_width=1)
    points = plot.scatter("x", "y", size="size", color="colour", alpha="alpha", source=source)
    plot.text(
        "x",
        "y",
        text="text",
        x_offset="dx",
        y_offset="dy",
        text_font_size=f"{FONT_SIZE}px",
        text_font=value(FONTS),
        text_color="colour",
        text_alpha="alpha",
        text_baseline="bottom",
        source=source,
    )
    tooltip = f'<div style="font: 13px {FONTS}; max-width: 320px"><b>@text</b><br>nearest: @nearest</div>'
    plot.add_tools(HoverTool(renderers=[points], tooltips=tooltip, callback=point, point_policy="snap_to_data"))
    return plot


def _ranges(points: np.ndarray) -> Any:
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    room = MARGIN * (high - low)
    return [(float(a), float(b)) for a, b in zip(low - room, high + room, strict=True)]


def _offsets(panel: Panel) -> np.ndarray:
    """Returns the offsets from points to the lower left corners of their labels, in pixels, y downwards: [n, 2]."""
    ranges = np.array(_ranges(panel.points))  # [2, 2]
    pixels = (panel.points[panel.indices] - ranges[:, 0]) / (ranges[:, 1] - ranges[:, 0]) * SIDE
    sizes = [(_width(panel.texts[number]) + 4, FONT_SIZE + 4) for number in panel.indices]
    boxes = place_all(pixels, sizes, Box(0, 0, SIDE, SIDE))
    offsets = np.zeros((len(panel.texts), 2))
    offsets[panel.indices] = [(box.x + 2 - x, y - box.y - 2) for box, (x, y) in zip(boxes, pixels, strict=True)]
    return offsets


def _leaders(panel: Panel, source: ColumnDataSource) -> dict[str, Any]:
    """Returns the lines to labels that are far from their points; in pixels, because zooming does not scale labels."""
    rows = []
    for number in panel.indices:
        left, bottom = source.data["dx"][number], -source.data["dy"][number]
        x, y = Box(left, bottom, _width(panel.texts[number]), FONT_SIZE).nearest(0, 0)
        if (far := math.hypot(x, y)) > NEAR:
            rows.append((*panel.points[number], far, math.atan2(y, x)))
    return {name: [line[i] for line in rows] for i, name in enumerate(("x", "y", "far", "towards"))}


def _width(text: str) -> float:
    """Estimates the width of a text in pixels: characters are as wide as they are high, or about half as wide."""
    return FONT_SIZE * sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.58 for char in text)
