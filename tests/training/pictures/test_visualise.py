"""The picture shows the served vectors, is reproducible, and has readable labels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib import font_manager

from training.pictures import drawing
from training.pictures.drawing import find_font
from training.pictures.labels import Box, place, place_all
from training.pictures.visualise import WORDS, Panel, project, read_words, visualise

HAS_FONT = any(entry.name in drawing.FONTS for entry in font_manager.FontManager().ttflist)
needs_font = pytest.mark.skipif(not HAS_FONT, reason="no font for Chinese (apt-get install fonts-noto-cjk)")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The words as the tiny models' vocabulary spells them."""
    path = tmp_path / "words/words.txt"
    path.parent.mkdir()
    path.write_text("草\n好听\nawsl\n晚安\n2333\n第一\n好耶\n</script>\n", encoding="utf-8")
    return path


@needs_font
def test_two_models_make_two_panels_and_the_same_picture_twice(
    models: tuple[Path, Path], words: Path, tmp_path: Path
) -> None:
    """It is equal to the bit and twice as wide as high; the ranks are beside it, in a folder that is created if
    missing.
    """
    for name in ("one", "two"):
        readings = visualise(
            [str(model) for model in models],
            tmp_path / f"out/{name}.png",
            words=words,
            ranks=tmp_path / f"out/{name}.json",
        )
    assert (tmp_path / "out/one.png").read_bytes() == (tmp_path / "out/two.png").read_bytes()
    height, width = matplotlib.image.imread(tmp_path / "out/one.png").shape[:2]
    assert width == 2 * height
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert readings == ""  # no pair of the recipe's is among these words
    assert json.loads((tmp_path / "out/one.json").read_text(encoding="utf-8"))["models"] == ["before", "after"]


@needs_font
def test_an_svg_names_every_model_and_is_the_same_twice(models: tuple[Path, Path], words: Path, tmp_path: Path) -> None:
    """The suffix chooses the format; the file has no date."""
    for name in ("one.svg", "two.svg"):
        visualise([str(models[1])], tmp_path / name, words=words)
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.svg").read_text(encoding="utf-8")
    assert "<!-- after -->" in text and "<!-- 好听 -->" in text
    assert "<dc:date>" not in text


def test_a_page_is_one_file_without_other_hosts(models: tuple[Path, Path], words: Path, tmp_path: Path) -> None:
    """It needs no font where it is made, and words are escaped."""
    visualise([str(model) for model in models], tmp_path / "words.html", words=words)
    page = (tmp_path / "words.html").read_text(encoding="utf-8")
    assert "<title>before · after</title>" in page
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href|@import|url\()", outside)
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page.split("</head>")[1])
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["words.html"]


def test_a_page_leaves_out_words_without_a_vector(tmp_path: Path) -> None:
    """They are also in no list of neighbours."""
    from training.pictures.webpage import draw  # Bokeh takes seconds to import

    vectors = np.random.default_rng(0).standard_normal((7, 5))
    vectors[2] = np.nan
    texts = ["mea", "aqua", "无", "草", "好", "</script>", "危"]
    draw([Panel("one", texts, vectors, project(vectors))], tmp_path / "words.html")
    page = (tmp_path / "words.html").read_text(encoding="utf-8")
    nearest = re.findall(r'"nearest",(\[.*?\])', page)
    assert len(nearest) == 1
    assert all("无" not in text for text in json.loads(nearest[0])) and json.loads(nearest[0])[2] == ""


@pytest.mark.filterwarnings("error")
def test_similar_words_are_close_together() -> None:
    """Two clouds far apart in 60 dimensions are two clouds in the plane."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 60)).astype(np.float32)
    vectors[30:] += 20
    points = project(vectors)
    centres = points[:30].mean(axis=0), points[30:].mean(axis=0)
    own = np.linalg.norm(points[:30] - centres[0], axis=1)
    assert (own < np.linalg.norm(points[:30] - centres[1], axis=1)).all()
    assert np.array_equal(points, project(vectors))


def test_a_label_avoids_other_objects() -> None:
    """It stays near its point while there is room, and inside the frame."""
    frame = Box(0, 0, 200, 200)
    free = place(100, 100, 30, 10, [], frame)
    assert (free.y + 5, free.x) == (100, pytest.approx(104))  # to the right, as one expects
    second = place(100, 100, 30, 10, [free], frame)
    assert second.overlap(free) == 0
    corner = place(199, 199, 30, 10, [], frame)
    assert corner.overlap(frame) == pytest.approx(300)


def test_labels_do_not_overlap_where_there_is_room() -> None:
    """They do not cover points, either; each has the index of its point."""
    points = np.random.default_rng(0).uniform(50, 550, (40, 2))
    boxes = place_all(points, [(40, 12)] * 40, Box(0, 0, 600, 600))
    for number, box in enumerate(boxes):
        assert sum(box.overlap(other) for other in boxes[:number]) == 0
        assert sum(box.overlap(Box(x - 2, y - 2, 4, 4)) for x, y in points) == 0
        assert np.hypot(*np.subtract(box.nearest(*points[number]), points[number])) < 60


def test_unknown_words_have_no_place() -> None:
    """The others have the places that they would have alone."""
    vectors = np.random.default_rng(0).standard_normal((20, 30))
    alone = project(vectors[1:])
    vectors[0] = np.nan
    assert np.isnan(project(vectors)[0]).all()
    assert np.array_equal(project(vectors)[1:], alone)
    vectors[4:] = np.nan
    with pytest.raises(ValueError, match="can spell 3 of 20 words; expected at least 5"):
        project(vectors)


def test_the_bundled_words_are_distinct() -> None:
    words = read_words(WORDS)
    assert len(words) == len(WORDS.read_text(encoding="utf-8").split("\n")) - 1 == 92
    assert {"草", "awsl", "阿夸", "aqua", "哔哩哔哩 (゜-゜)つロ 干杯~", "我很可爱，请给我钱"} <= set(words)


def test_too_few_words_are_refused(tmp_path: Path) -> None:
    """t-SNE needs more."""
    (tmp_path / "few.txt").write_text("草\n草\n\n晚安\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has 2; expected at least 5"):
        read_words(tmp_path / "few.txt")


def test_an_unknown_format_is_refused_before_any_work(tmp_path: Path) -> None:
    """The model does not even exist."""
    with pytest.raises(ValueError, match=r"ends in \.png, \.svg, \.html"):
        visualise([str(tmp_path / "nowhere")], tmp_path / "words.jpg")


def test_without_a_font_the_error_names_the_package() -> None:
    """Boxes in place of characters would be useless."""
    with pytest.raises(FileNotFoundError, match="apt-get install fonts-noto-cjk"):
        find_font(["No Such Font"])
