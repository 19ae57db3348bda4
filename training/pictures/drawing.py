"""Draws panels as a picture, PNG or SVG, with matplotlib.

The pairs of words in READINGS are coloured and joined by a line, to show what training has brought together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure

from training.files import temporary_name
from training.pictures.labels import Box, place_all
from training.pictures.panel import Panel

FONTS = (  # families with Chinese characters
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
)
PANEL_INCHES = 9.0
FONT_SIZE = 10.0
INK, ACCENT, FAINT = "#3b4148", "#1f5fa8", "#c3c9d0"
GAP = 2  # pixels around a label
NEAR = 8  # pixels between a point and its label up to which no line is drawn


def draw(panels: Sequence[Panel], output: Path) -> None:
    """Draws the panels side by side to one file."""
    # DejaVu has what a Chinese font may lack, such as emoticons.
    style: Any = {
        "font.family": [find_font(), "DejaVu Sans"],
        "font.size": FONT_SIZE,
        "svg.hashsalt": "danmaku",
        "axes.linewidth": 0.5,
        "axes.edgecolor": FAINT,
        "text.color": INK,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(PANEL_INCHES * len(panels), PANEL_INCHES), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            _scatter(axis, panel)
        canvas.draw()  # computes the layout, without which labels cannot be measured
        figure.set_layout_engine("none")
        for axis, panel in zip(axes, panels, strict=True):
            _label(axis, panel, canvas.get_renderer())
        metadata = {"Date": None} if output.suffix == ".svg" else {}
        with temporary_name(output) as temporary:
            figure.savefig(temporary, format=output.suffix[1:], metadata=metadata)


def find_font(names: Sequence[str] = FONTS) -> str:
    """Returns the first of the families that is installed. Raises FileNotFoundError if there is none."""
    # Matplotlib caches its list of fonts; a font installed since is found only by a new scan.
    for fonts in (font_manager.fontManager, None):
        fonts = fonts or font_manager.FontManager()
        installed = {entry.name: entry.fname for entry in fonts.ttflist}
        for name in names:
            if name in installed and Path(installed[name]).exists():
                if fonts is not font_manager.fontManager:
                    font_manager.fontManager.addfont(installed[name])
                return name
    raise FileNotFoundError("no font with Chinese characters is installed; run apt-get install fonts-noto-cjk")


def _scatter(axis: Axes, panel: Panel) -> None:
    axis.set_title(panel.model, fontsize=1.6 * FONT_SIZE)
    axis.set(xticks=[], yticks=[])
    read = {number for pair in panel.pairs for number in pair}
    for first, second in panel.pairs:
        axis.plot(*panel.points[[first, second]].T, color=ACCENT, alpha=0.22, linewidth=0.9, zorder=1)
    colours = [ACCENT if number in read else INK for number in panel.indices]
    x, y = panel.points[panel.indices].T
    axis.scatter(x, y, s=12, c=colours, linewidths=0, zorder=2)
    axis.margins(0.06)


def _label(axis: Axes, panel: Panel, renderer: RendererAgg) -> None:
    """Writes each word beside its point, with a line to it where it is far."""
    read = {number for pair in panel.pairs for number in pair}
    pixels = axis.transData.transform(panel.points[panel.indices])  # [n, 2]
    labels = [
        axis.text(0, 0, panel.texts[n], color=ACCENT if n in read else INK, va="bottom", ha="left", parse_math=False)
        for n in panel.indices
    ]
    extents = [label.get_window_extent(renderer) for label in labels]
    sizes = [(extent.width + 2 * GAP, extent.height + 2 * GAP) for extent in extents]
    frame = axis.get_window_extent(renderer)
    boxes = place_all(pixels, sizes, Box(frame.x0, frame.y0, frame.width, frame.height))
    to_data = axis.transData.inverted()
    for label, box, (x, y) in zip(labels, boxes, pixels, strict=True):
        left, bottom = to_data.transform((box.x + GAP, box.y + GAP))
        label.set_position((left, bottom))
        near = box.nearest(x, y)
        if (near[0] - x) ** 2 + (near[1] - y) ** 2 > NEAR**2:
            axis.plot(*to_data.transform([(x, y), near]).T, color=FAINT, linewidth=0.5, zorder=0)
