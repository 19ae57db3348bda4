"""The picture is made of the vectors that would be served, the same every time, with labels one can read."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib import font_manager

from training import visualise as drawing
from training.visualise import Box, embed, find_font, opened, place, plane, read_words, visualise

HAS_FONT = any(entry.name in drawing.FONTS for entry in font_manager.FontManager().ttflist)
needs_font = pytest.mark.skipif(not HAS_FONT, reason="no font for Chinese (apt-get install fonts-noto-cjk)")


@needs_font
def test_two_models_make_two_panels_and_the_same_picture_twice(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Bit for bit, twice as wide as high."""
    for name in ("one.png", "two.png"):
        visualise(list(models), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    height, width = matplotlib.image.imread(tmp_path / "one.png").shape[:2]
    assert width == 2 * height
    assert len(list(tmp_path.iterdir())) == 2


@needs_font
def test_an_svg_names_every_model_and_is_the_same_twice(models: tuple[Path, Path], tmp_path: Path) -> None:
    """The suffix chooses the format; no date is written into it."""
    words = tmp_path / "words.txt"
    words.write_text("草\n好听\nawsl\n晚安\n2333\n$x_1$\n", encoding="utf-8")
    for name in ("one.svg", "two.svg"):
        visualise([models[1]], tmp_path / name, words=words)
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.svg").read_text(encoding="utf-8")
    assert "<!-- after -->" in text and "<!-- 好听 -->" in text and "<!-- $x_1$ -->" in text
    assert "<dc:date>" not in text


def test_a_word_longer_than_the_model_is_cut(models: tuple[Path, Path]) -> None:
    """Rather than refused: it is only a picture."""
    with opened(models[0]) as encoder:
        assert embed(encoder, ["草" * 100, "草"]).shape == (2, 32)


@pytest.mark.filterwarnings("error")
def test_words_that_are_alike_stand_together() -> None:
    """Two clouds far apart in 60 dimensions are two clouds in the plane."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 60)).astype(np.float32)
    vectors[30:] += 20
    points = plane(vectors)
    centres = points[:30].mean(axis=0), points[30:].mean(axis=0)
    own = np.linalg.norm(points[:30] - centres[0], axis=1)
    assert (own < np.linalg.norm(points[:30] - centres[1], axis=1)).all()
    assert np.array_equal(points, plane(vectors))


def test_a_label_avoids_what_is_there() -> None:
    """It stays near its point while there is room, and inside the frame."""
    frame = Box(0, 0, 200, 200)
    free = place(100, 100, 30, 10, [], frame)
    assert (free.y + 5, free.x) == (100, pytest.approx(104))  # to the right, as one expects
    second = place(100, 100, 30, 10, [free], frame)
    assert second.overlap(free) == 0
    corner = place(199, 199, 30, 10, [], frame)
    assert corner.overlap(frame) == pytest.approx(300)


def test_the_words_that_ship_are_the_reference() -> None:
    """Each once, none blank."""
    words = read_words(drawing.WORDS)
    assert len(words) == len(drawing.WORDS.read_text(encoding="utf-8").split("\n")) - 1 == 92
    assert {"草", "awsl", "阿夸", "aqua", "哔哩哔哩 (゜-゜)つロ 干杯~", "我很可爱，请给我钱"} <= set(words)


def test_too_few_words_are_refused(tmp_path: Path) -> None:
    """t-SNE has nothing to say about them."""
    (tmp_path / "few.txt").write_text("草\n草\n\n晚安\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has 2 words; a picture needs at least 5"):
        read_words(tmp_path / "few.txt")


def test_a_format_that_is_not_offered_is_refused_before_any_work(tmp_path: Path) -> None:
    """The model does not even exist."""
    with pytest.raises(ValueError, match=r"neither \.png nor \.svg"):
        visualise([tmp_path / "nowhere"], tmp_path / "words.jpg")


def test_without_a_font_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes in place of characters would be no picture."""
    monkeypatch.setattr(drawing, "FONTS", ("No Such Font",))
    with pytest.raises(FileNotFoundError, match="apt-get install fonts-noto-cjk"):
        find_font()
