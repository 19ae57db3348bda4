"""Places labels beside their points without overlap.

Greedy and deterministic: from the crowded centre outwards, each label takes the nearest free place. In pixels, with y
upwards, independent of the library that draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FARTHEST = 300  # pixels from a point to its label
RADIUS = 3  # pixels, of a point


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; (x, y) is its lower left corner."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """Returns the area that both cover, in square pixels."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, width) * max(0.0, height)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Returns the point of the box that is nearest to (x, y)."""
        return min(max(x, self.x), self.x + self.width), min(max(y, self.y), self.y + self.height)


def place_all(points: np.ndarray, sizes: Sequence[tuple[float, float]], frame: Box) -> list[Box]:
    """Returns a box for the label of every point [n, 2], of the label's size."""
    occupied = [Box(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS) for x, y in points]
    boxes: dict[int, Box] = {}
    # From the centre outwards: labels at the edge always have room.
    for number in np.argsort(((points - points.mean(axis=0)) ** 2).sum(axis=1), kind="stable"):
        x, y = points[number]
        width, height = sizes[number]
        boxes[number] = place(x, y, width, height, occupied, frame)
        occupied.append(boxes[number])
    return [boxes[number] for number in range(len(points))]


def place(x: float, y: float, width: float, height: float, occupied: list[Box], frame: Box) -> Box:
    """Returns the nearest free box of this size for the label of the point (x, y).

    If no box is free, returns the one with the least overlap.
    """
    best, least = Box(x, y, width, height), float("inf")
    reach = Box(x - FARTHEST - width, y - FARTHEST - height, 2 * (FARTHEST + width), 2 * (FARTHEST + height))
    occupied = [other for other in occupied if other.overlap(reach)]
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
            covered = sum(box.overlap(other) for other in occupied) + (1 - inside) * 1e6
            if covered < least - 1e-6:
                best, least = box, covered
            if covered < 1e-6:
                return best
    return best
