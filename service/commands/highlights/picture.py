"""Draws highlights as an SVG, alone or in an interactive page: a curve with numbered peaks, and their topics below.

The page is one file: it loads nothing, follows the browser's dark mode, and is readable on a phone.
"""

from __future__ import annotations

from html import escape
from string import Template

import orjson

from service.chat.highlights import STEP_S, Highlights, Peak

WIDTH, PLOT_HEIGHT = 1280, 300
LEFT, RIGHT, TOP, BOTTOM, ROW = 24, 24, 92, 40, 34
POINTS = 1200  # of a curve, drawn by the highest value of each
LABEL_APART = 26  # pixels between the numbers of peaks
TICKS_S = (60, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800)
KINDS = {
    "laughter": "爆笑",
    "shock": "震惊",
    "praise": "夸赞",
    "song": "唱歌",
    "question": "疑问",
    "sadness": "感伤",
    "congratulation": "祝贺",
    "greeting": "问候",
    "farewell": "道别",
    "thanks": "感谢",
    "other": "其他",
}
COLOURS = {
    "laughter": "#d9480f",
    "shock": "#7048e8",
    "praise": "#c2255c",
    "song": "#1971c2",
    "question": "#2b8a3e",
    "sadness": "#0b7285",
    "congratulation": "#a46a00",
}
STYLE = """
text { font-family: "Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", sans-serif; fill: #212529 }
.title { font-size: 26px; font-weight: 700 } .about, .tick { font-size: 14px; fill: #5c6670 } .row { font-size: 17px }
.number { font-size: 14px; font-weight: 700; fill: #fff; text-anchor: middle } .tick { text-anchor: middle }
.curve { fill: #fab005; fill-opacity: .55; stroke: #c27c00; stroke-width: 1.5 }
.density { fill: none; stroke: #868e96; stroke-width: 1; stroke-opacity: .8 }
.axis { stroke: #adb5bd } .peak { fill: #212529; fill-opacity: .08 }
"""
PAGE = Template("""<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark }
body { margin: 0 auto; max-width: 1280px; padding: 12px; font: 16px/1.5 "Noto Sans CJK SC", "PingFang SC",
  "Microsoft YaHei", sans-serif; background: #fff; color: #212529 }
h1 { font-size: 1.4rem; margin: 0 } p { margin: .2rem 0 .6rem; color: #5c6670 }
#plot { position: relative } svg { display: block; width: 100%; height: 300px }
#tip { position: absolute; top: 4px; padding: 4px 10px; border-radius: 6px; background: #212529; color: #fff;
  pointer-events: none; max-width: 60%; font-size: .9rem } #tip:empty { display: none }
#cursor { stroke: #868e96 } ol { padding-left: 2rem } li { padding: .25rem .4rem; border-radius: 6px }
li.near { background: #fff3bf } b { font-variant-numeric: tabular-nums } i { font-style: normal; font-weight: 600 }
ol small { color: #5c6670 }
$style
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #e9ecef } p, ol small { color: #a6adb5 } text, .tick { fill: #a6adb5 }
  .curve { fill-opacity: .35 } .peak { fill: #fff; fill-opacity: .1 } .axis { stroke: #495057 }
  li.near { background: #45390b } #tip { background: #e9ecef; color: #16181c } li i { filter: brightness(1.7) }
}
</style>
<h1>$title</h1><p>$about</p>
<div id="plot">$plot<div id="tip"></div></div>
<ol>$rows</ol>
<script>
const data = $data, plot = document.querySelector("#plot"), tip = document.querySelector("#tip")
const cursor = document.querySelector("#cursor"), rows = [...document.querySelectorAll("li")]
const time = s => [s / 3600, s / 60 % 60, s % 60].map(n => String(Math.floor(n)).padStart(2, "0")).join(":")
function show(x) {
  const share = Math.min(1, Math.max(0, x)), seconds = data.start + share * data.span
  const reach = data.span / 200
  const near = data.peaks.findIndex(([start, end]) => seconds >= start - reach && seconds <= end + reach)
  rows.forEach((row, index) => row.classList.toggle("near", index === near))
  cursor.setAttribute("transform", `translate($${share * data.width})`)
  cursor.style.display = ""
  tip.textContent = time(seconds) + (near < 0 ? "" : " " + data.peaks[near][2])
  tip.style.left = share < .5 ? `calc($${100 * share}% + 12px)` : ""
  tip.style.right = share < .5 ? "" : `calc($${100 - 100 * share}% + 12px)`
}
plot.addEventListener("pointermove", event => {
  const box = plot.getBoundingClientRect()
  show((event.clientX - box.left) / box.width)
})
rows.forEach((row, index) => row.addEventListener("pointerenter", () =>
  show(((data.peaks[index][0] + data.peaks[index][1]) / 2 - data.start) / data.span)))
</script>
</html>
""")


def format_time(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def format_representatives(peak: Peak, most_characters: int = 100) -> str:
    texts = [(_shorten(each.text, most_characters), each.count) for each in peak.representatives]
    return " / ".join(f"{text} ×{count}" if count > 1 else text for text, count in texts)


def draw_picture(name: str, highlights: Highlights) -> str:
    """Returns an SVG that stands alone."""
    height = TOP + PLOT_HEIGHT + BOTTOM + ROW * len(highlights.peaks) + 12
    plot = _draw_plot(highlights, WIDTH - LEFT - RIGHT, with_numbers=True)
    rows = []
    for number, peak in enumerate(highlights.peaks, 1):
        y = TOP + PLOT_HEIGHT + BOTTOM + ROW * number - 8
        words = format_representatives(peak, most_characters=24)
        colour = COLOURS.get(peak.kind, "#495057")
        rows.append(
            f'<circle cx="{LEFT + 12}" cy="{y - 6}" r="12" fill="{colour}"/>'
            f'<text class="number" x="{LEFT + 12}" y="{y - 1}">{number}</text>'
            f'<text class="row" x="{LEFT + 40}" y="{y}">{format_time(peak.start)} – {format_time(peak.end)}</text>'
            f'<text class="row" x="{LEFT + 220}" y="{y}" style="fill:{colour}">{KINDS[peak.kind]}</text>'
            f'<text class="row" x="{LEFT + 280}" y="{y}">{_escape(words)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
        f'<style>{STYLE}</style><text class="title" x="{LEFT}" y="40">{_escape(_shorten(name, 48))}</text>'
        f'<text class="about" x="{LEFT}" y="66">{_describe(highlights)}</text>'
        f'<g transform="translate({LEFT} {TOP})">{plot}</g>{"".join(rows)}</svg>'
    )


def draw_page(name: str, highlights: Highlights) -> str:
    """Returns an HTML page."""
    rows, peaks = [], []
    for peak in highlights.peaks:
        words = format_representatives(peak)
        colour = COLOURS.get(peak.kind, "#495057")
        rows.append(
            f"<li><b>{format_time(peak.start)} – {format_time(peak.end)}</b> "
            f'<i style="color:{colour}">{KINDS[peak.kind]}</i> {_escape(words)} <small>{peak.lines} 条</small></li>'
        )
        peaks.append([peak.start, peak.end, f"{KINDS[peak.kind]} {words}"])
    width = WIDTH - LEFT - RIGHT
    span = len(highlights.curve) * STEP_S
    data = {"start": highlights.start, "span": span, "width": width, "peaks": peaks}
    plot = (
        f'<svg viewBox="0 0 {width} {PLOT_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{_escape(name)}">{_draw_plot(highlights, width, with_numbers=False)}'
        f'<line id="cursor" y2="{PLOT_HEIGHT}" style="display:none" vector-effect="non-scaling-stroke"/></svg>'
    )
    return PAGE.substitute(
        title=_escape(name),
        about=_describe(highlights),
        style=STYLE,
        plot=plot,
        rows="".join(rows),
        data=orjson.dumps(data).decode().replace("<", "\\u003c"),
    )


def _draw_plot(highlights: Highlights, width: int, *, with_numbers: bool) -> str:
    """Returns the curves with peaks and times, `width` × (PLOT_HEIGHT + BOTTOM)."""
    curve = _thin(highlights.curve.tolist())
    span = max(len(highlights.curve) * STEP_S, STEP_S)
    area = _line(curve, width)
    parts = [
        f'<path class="curve" d="M0 {PLOT_HEIGHT} L{area} L{width} {PLOT_HEIGHT} Z" '
        'vector-effect="non-scaling-stroke"/>',
        f'<path class="density" d="M{_line(_thin(highlights.density.tolist()), width)}" '
        'vector-effect="non-scaling-stroke"/>',
        f'<line class="axis" y1="{PLOT_HEIGHT}" x2="{width}" y2="{PLOT_HEIGHT}"/>',
    ]
    tick = next((tick for tick in TICKS_S if span / tick <= 12), TICKS_S[-1])
    seconds = tick * -(-highlights.start // tick)
    while with_numbers and seconds < highlights.start + span:
        x = (seconds - highlights.start) / span * width
        parts.append(f'<text class="tick" x="{min(max(x, 28), width - 28):.1f}" y="{PLOT_HEIGHT + 22}">')
        parts.append(f"{format_time(seconds)}</text>")
        seconds += tick
    places: list[tuple[float, int]] = []
    highest = max(float(highlights.curve.max(initial=0)), 1e-9)
    for number, peak in enumerate(highlights.peaks, 1):
        start, end = ((time - highlights.start) / span * width for time in (peak.start, peak.end))
        parts.append(f'<rect class="peak" x="{start:.1f}" width="{max(2, end - start):.1f}" height="{PLOT_HEIGHT}"/>')
        if with_numbers:
            x = (peak.at - highlights.start) / span * width
            y = PLOT_HEIGHT * (1 - peak.score / highest) - 16
            while any(abs(x - other) < LABEL_APART and abs(y - level) < LABEL_APART for other, level in places):
                y -= LABEL_APART
            places.append((x, int(y)))
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" fill="{COLOURS.get(peak.kind, "#495057")}"/>'
                f'<text class="number" x="{x:.1f}" y="{y + 5:.1f}">{number}</text>'
            )
    return "".join(parts)


def _thin(values: list[float]) -> list[float]:
    size = max(1, -(-len(values) // POINTS))
    return [max(values[at : at + size]) for at in range(0, len(values), size)]


def _line(values: list[float], width: int) -> str:
    highest = max(values, default=0) or 1
    last = max(len(values) - 1, 1)
    return " ".join(
        f"{index / last * width:.1f} {PLOT_HEIGHT * (1 - value / highest):.1f}" for index, value in enumerate(values)
    )


def _describe(highlights: Highlights) -> str:
    """Describes the curves in the reader's language."""
    return f"{format_time(len(highlights.curve) * STEP_S)} · 黄色：比平时多说的内容 · 灰线：弹幕数量"


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _escape(text: str) -> str:
    return escape("".join(character if character.isprintable() else " " for character in text))
