"""Draws words as each model sees them, side by side: what a model takes for alike stands close together.

A word's vector is what the service gives for it with its default pooling. PCA and t-SNE bring it to the plane;
every random choice is seeded, so the same models and words give the same picture. t-SNE keeps neighbours, not
distances: read the groups, not the gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from service.encoders.base import Encoder, open_encoder
from service.settings import Settings
from training.files import temporary_name

WORDS = Path(__file__).with_name("words.txt")
SUFFIXES = (".png", ".svg")
FONTS = (
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
SEED = 1
PCA_DIMENSIONS = 50
PERPLEXITY = 15
MIN_WORDS = 5
PANEL_INCHES = 9.0
FONT_SIZE = 10.0
COLOUR = "#1f5fa8"
GAP = 2  # pixels around a label
FARTHEST = 120  # pixels from a point to its label


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from its lower left corner."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """The area that both cover, in square pixels."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, width) * max(0.0, height)


def visualise(models: list[Path], output: Path, *, words: Path = WORDS) -> None:
    """One panel per model (a directory) in `output`, a .png or .svg. `words`: a file, one word a line."""
    if output.suffix not in SUFFIXES:
        raise ValueError(f"{output} ends in neither {' nor '.join(SUFFIXES)}")
    texts = read_words(words)
    font = find_font()
    # DejaVu draws what a font for Chinese may lack: emoticons, letters. Text stays text in an SVG.
    style: Any = {
        "font.family": [font, "DejaVu Sans"],
        "font.size": FONT_SIZE,
        "svg.hashsalt": "danmaku",
        "axes.linewidth": 0.5,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(PANEL_INCHES * len(models), PANEL_INCHES), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(models), squeeze=False)[0]
        drawn = []
        for panel, directory in zip(panels, models, strict=True):
            with opened(directory) as encoder:
                points = plane(embed(encoder, texts))
                panel.set_title(encoder.model, fontsize=1.6 * FONT_SIZE)
            panel.set(xticks=[], yticks=[])
            panel.scatter(*points.T, s=9, color=COLOUR, linewidths=0)
            panel.margins(0.06)
            drawn.append((panel, points))
        canvas.draw()  # settles the layout, without which labels cannot be measured
        figure.set_layout_engine("none")
        for panel, points in drawn:
            label(panel, points, texts, canvas.get_renderer())
        output.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if output.suffix == ".svg" else {}
        with temporary_name(output) as temporary:
            figure.savefig(temporary, format=output.suffix[1:], metadata=metadata)


def read_words(path: Path) -> list[str]:
    """The words of a file, one a line, blank lines and repetitions left out."""
    words = list(dict.fromkeys(line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()))
    if len(words) < MIN_WORDS:
        raise ValueError(f"{path} has {len(words)} words; a picture needs at least {MIN_WORDS}")
    return words


@contextmanager
def opened(directory: Path) -> Iterator[Encoder]:
    """The model in a directory, as the service opens it when nothing is set."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    encoder = open_encoder(
        f"onnx://{directory}",
        pooling_layer=defaults["pooling_layer"],
        pooling_strategy=defaults["pooling_strategy"],
        max_seq_len=None,
        threads=1,
    )
    try:
        yield encoder
    finally:
        encoder.close()


def embed(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """A vector per text: [n, dim]. A text longer than the model is cut rather than refused: it is only a picture."""
    return asyncio.run(encoder.encode(encoder.prepare([encoder.normalize(text) for text in texts])))


def plane(vectors: np.ndarray) -> np.ndarray:
    """Vectors [n, h] as points [n, 2]: PCA to 50 dimensions, then t-SNE."""
    count, size = vectors.shape
    reduced = PCA(min(PCA_DIMENSIONS, count, size), svd_solver="full").fit_transform(vectors.astype(np.float64))
    # The exact method: for so few points as quick, and without the parallel sums whose order may vary.
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", method="exact", learning_rate="auto", random_state=SEED)
    return np.asarray(tsne.fit_transform(reduced))


def find_font() -> str:
    """The family of an installed font that can draw Chinese; FileNotFoundError names a package with one."""
    # Matplotlib remembers the fonts that it once saw, so one installed since is only found by looking again.
    for fonts in (font_manager.fontManager, None):
        fonts = fonts or font_manager.FontManager()
        installed = {entry.name: entry.fname for entry in fonts.ttflist}
        for name in FONTS:
            if name in installed and Path(installed[name]).exists():
                if fonts is not font_manager.fontManager:
                    font_manager.fontManager.addfont(installed[name])
                return name
    raise FileNotFoundError("no font for Chinese is installed: apt-get install fonts-noto-cjk")


def label(panel: Axes, points: np.ndarray, texts: list[str], renderer: RendererAgg) -> None:
    """Writes each text beside its point, where it covers least of the others; by a line where it is far."""
    pixels = panel.transData.transform(points)  # [n, 2]
    frame = panel.get_window_extent(renderer)
    taken = [Box(x - 3, y - 3, 6, 6) for x, y in pixels]
    to_data = panel.transData.inverted()
    # From the crowded middle outwards: who stands at the rim still has room when its turn comes.
    order = np.argsort(((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1), kind="stable")
    for number in order:
        x, y = pixels[number]
        text = panel.text(0, 0, texts[number], fontsize=FONT_SIZE, va="bottom", ha="left", parse_math=False)
        extent = text.get_window_extent(renderer)
        width, height = extent.width + 2 * GAP, extent.height + 2 * GAP
        best = place(x, y, width, height, taken, Box(frame.x0, frame.y0, frame.width, frame.height))
        taken.append(best)
        left, bottom = to_data.transform((best.x + GAP, best.y + GAP))
        text.set_position((left, bottom))
        near = np.clip((x, y), (best.x, best.y), (best.x + best.width, best.y + best.height))
        if np.hypot(*(near - (x, y))) > 8:
            ends = to_data.transform([(x, y), near])
            panel.plot(*ends.T, color="0.7", linewidth=0.5, zorder=0)


def place(x: float, y: float, width: float, height: float, taken: list[Box], frame: Box) -> Box:
    """Where a label of this size goes for the point (x, y), in pixels: the nearest place that is free.

    If there is none, the one that covers least.
    """
    best, least = Box(x, y, width, height), float("inf")
    reach = Box(x - FARTHEST - width, y - FARTHEST - height, 2 * (FARTHEST + width), 2 * (FARTHEST + height))
    taken = [other for other in taken if other.overlap(reach)]
    for distance in range(4, FARTHEST, 6):
        for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False):
            dx, dy = np.cos(angle), np.sin(angle)
            # The box touches the circle of this distance from outside, in the direction of the angle.
            box = Box(
                x + distance * dx + (dx - 1) * width / 2,
                y + distance * dy + (dy - 1) * height / 2,
                width,
                height,
            )
            inside = box.overlap(frame) / (width * height)
            covered = sum(box.overlap(other) for other in taken) + (1 - inside) * 1e6
            if covered < least - 1e-6:
                best, least = box, covered
            if covered < 1e-6:
                return best
    return best
