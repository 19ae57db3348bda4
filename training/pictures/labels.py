"""Where labels go so that they can be read: beside their points, on none of the others.

Greedy and deterministic: from the crowded middle outwards each label takes the nearest free place. In pixels, with
y upwards, so that it serves every way of drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FARTHEST = 300  # pixels from a point to its label
RADIUS = 3  # of a point


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

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of it that is nearest to (x, y)."""
        return min(max(x, self.x), self.x + self.width), min(max(y, self.y), self.y + self.height)


def place_all(points: np.ndarray, sizes: Sequence[tuple[float, float]], frame: Box) -> list[Box]:
    """A box of its size for the label of every point [n, 2]."""
    taken = [Box(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS) for x, y in points]
    boxes: dict[int, Box] = {}
    # Who stands at the rim still has room when its turn comes.
    for number in np.argsort(((points - points.mean(axis=0)) ** 2).sum(axis=1), kind="stable"):
        x, y = points[number]
        width, height = sizes[number]
        boxes[number] = place(x, y, width, height, taken, frame)
        taken.append(boxes[number])
    return [boxes[number] for number in range(len(points))]


def place(x: float, y: float, width: float, height: float, taken: list[Box], frame: Box) -> Box:
    """Where a label of this size goes for the point (x, y): the nearest place that is free.

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
