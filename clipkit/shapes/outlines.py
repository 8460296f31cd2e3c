"""The 20 outlines of `shapes` as signed distances: negative inside, in half widths of the object.

Each takes coordinates u (right) and v (down), float32 arrays of one shape, and returns an array of
that shape. They use only sums, products, square roots, minima and maxima, which IEEE arithmetic
rounds in one way, so that every machine draws the same image.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]  # float32


def _circle(u: Field, v: Field, x: float, y: float, r: float) -> Field:
    du, dv = u - x, v - y
    distance: Field = np.sqrt(du * du + dv * dv)
    return distance - r


def _rectangle(u: Field, v: Field, left: float, top: float, right: float, bottom: float) -> Field:
    across = np.abs(u - (left + right) / 2) - (right - left) / 2
    distance: Field = np.maximum(across, np.abs(v - (top + bottom) / 2) - (bottom - top) / 2)
    return distance


def _polygon(u: Field, v: Field, *corners: tuple[float, float]) -> Field:
    """Return the largest distance to the lines of a convex polygon's edges, corners clockwise."""
    edges = []
    for (x, y), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = math.hypot(x2 - x, y2 - y)
        a, b = (y2 - y) / length, (x - x2) / length  # the outward normal
        edges.append(a * u + (b * v - (a * x + b * y)))
    return functools.reduce(np.maximum, edges)


def _union(*fields: Field) -> Field:
    return functools.reduce(np.minimum, fields)


def _arrow(u: Field, v: Field) -> Field:
    head = _polygon(u, v, (0.05, -0.75), (0.95, 0), (0.05, 0.75))
    return _union(_rectangle(u, v, -0.92, -0.22, 0.15, 0.22), head)


def _ball(u: Field, v: Field) -> Field:
    return _circle(u, v, 0, 0, 0.86)


def _boat(u: Field, v: Field) -> Field:
    hull = _polygon(u, v, (-0.95, 0.3), (0.95, 0.3), (0.6, 0.85), (-0.6, 0.85))
    main = _polygon(u, v, (0.08, -0.9), (0.8, 0.16), (0.08, 0.16))
    jib = _polygon(u, v, (-0.08, -0.6), (-0.08, 0.16), (-0.65, 0.16))
    return _union(hull, main, jib, _rectangle(u, v, -0.08, -0.9, 0.08, 0.35))


def _box(u: Field, v: Field) -> Field:
    return _rectangle(u, v, -0.76, -0.76, 0.76, 0.76)


def _butterfly(u: Field, v: Field) -> Field:
    w = np.abs(u)
    wings = _union(_circle(w, v, 0.52, -0.38, 0.42), _circle(w, v, 0.42, 0.42, 0.33))
    joint = _polygon(w, v, (-1, -0.05), (0.3, -0.6), (0.5, 0.5), (-1, 0.05))
    feelers = _polygon(w, v, (0.0, -0.5), (0.22, -0.95), (0.3, -0.92), (0.08, -0.45))
    return _union(wings, joint, feelers, _rectangle(w, v, -0.1, -0.6, 0.1, 0.85))


def _car(u: Field, v: Field) -> Field:
    cabin = _polygon(u, v, (-0.42, -0.55), (0.25, -0.55), (0.6, 0), (-0.62, 0))
    wheels = _circle(np.abs(u), v, 0.54, 0.36, 0.27)
    return _union(_rectangle(u, v, -0.95, -0.06, 0.95, 0.34), cabin, wheels)


def _cross(u: Field, v: Field) -> Field:
    return _union(_rectangle(u, v, -0.3, -0.9, 0.3, 0.9), _rectangle(u, v, -0.9, -0.3, 0.9, 0.3))


def _fish(u: Field, v: Field) -> Field:
    body = np.maximum(_circle(u, v, 0.2, 0.55, 0.98), _circle(u, v, 0.2, -0.55, 0.98))
    tail = _polygon(u, v, (-0.98, -0.5), (-0.4, 0.0), (-0.98, 0.5), (-0.8, 0.0))
    notch = np.maximum(
        _polygon(u, v, (-0.95, -0.5), (-0.4, 0), (-0.95, 0.5)), -_circle(u, v, -1.2, 0, 0.4)
    )
    return _union(body, np.maximum(tail, notch), notch)


def _flower(u: Field, v: Field) -> Field:
    w, h = np.abs(u), np.abs(v + 0.32)
    petals = _union(
        _circle(w, h, 0.37, 0, 0.225), _circle(w, h, 0.185, 0.32, 0.225), _circle(w, h, 0, 0, 0.25)
    )
    leaf = np.maximum(_circle(w, v, 0.08, 0.35, 0.42), _circle(w, v, 0.36, 0.83, 0.42))
    return _union(petals, leaf, _rectangle(w, v, -0.07, 0.1, 0.07, 0.95))


def _heart(u: Field, v: Field) -> Field:
    w = np.abs(u)
    point = np.maximum(0.760 * w + (0.649 * v - 0.584), -0.12 - v)
    return _union(_circle(w, v, 0.42, -0.3, 0.46), point)


def _hourglass(u: Field, v: Field) -> Field:
    w, h = np.abs(u), np.abs(v)
    glass = np.maximum(0.8 * w - (0.6 * h + 0.04), h - 0.9)
    return _union(np.maximum(glass, w - 0.6), _rectangle(w, h, -0.72, 0.72, 0.72, 0.92))


def _house(u: Field, v: Field) -> Field:
    roof = _polygon(u, v, (0, -0.92), (0.95, -0.08), (-0.95, -0.08))
    walls = np.maximum(
        _rectangle(u, v, -0.68, -0.12, 0.68, 0.88), -_rectangle(u, v, -0.16, 0.3, 0.2, 1.2)
    )
    return _union(roof, walls, _rectangle(u, v, 0.36, -0.88, 0.6, -0.3))


def _key(u: Field, v: Field) -> Field:
    bow = np.abs(_circle(u, v, -0.5, 0, 0.32)) - 0.14
    teeth = _union(_rectangle(u, v, 0.45, 0, 0.6, 0.4), _rectangle(u, v, 0.75, 0, 0.92, 0.46))
    return _union(bow, teeth, _rectangle(u, v, -0.15, -0.12, 0.92, 0.12))


def _leaf(u: Field, v: Field) -> Field:
    blade = np.maximum(_circle(u, v, -0.5, -0.15, 0.93), _circle(u, v, 0.5, -0.15, 0.93))
    return _union(blade, _rectangle(u, v, -0.06, 0.5, 0.06, 0.95))


def _moon(u: Field, v: Field) -> Field:
    return np.maximum(_circle(u, v, 0, 0, 0.88), -_circle(u, v, 0.42, -0.06, 0.68))


def _mug(u: Field, v: Field) -> Field:
    handle = np.abs(_circle(u, v, 0.46, -0.02, 0.38)) - 0.1
    return _union(_rectangle(u, v, -0.72, -0.78, 0.42, 0.78), handle)


def _plane(u: Field, v: Field) -> Field:
    w = np.abs(u)
    nose = np.maximum(_circle(w, v, -0.5, -0.2, 0.66), v - 0.2)
    wing = _polygon(w, v, (-1, -0.8), (0.95, 0.2), (0.95, 0.42), (-1, 0.22))
    tail = _polygon(w, v, (-1, 0.1), (0.42, 0.8), (0.42, 0.94), (-1, 0.8))
    return _union(nose, wing, tail, _rectangle(w, v, -0.16, -0.7, 0.16, 0.85))


def _ring(u: Field, v: Field) -> Field:
    return np.abs(_circle(u, v, 0, 0, 0.66)) - 0.22


def _star(u: Field, v: Field) -> Field:
    # fold the plane onto half of the upper point, whose side is a line
    a, b = math.cos(math.pi / 5), math.sin(math.pi / 5)
    w, h = np.abs(u), -0.06 - v
    for side in (a, -a):  # mirrors that separate the points
        beyond = 2 * np.maximum(side * w - b * h, 0)
        w, h = w - beyond * side, h + beyond * b
    across, down = 0.45 * b, 0.45 * a - 1  # from the tip to the notch beside it
    length = math.hypot(across, down)
    return across / length * (h - 0.95) - down / length * np.abs(w)


def _tree(u: Field, v: Field) -> Field:
    top = _polygon(u, v, (0, -0.95), (0.5, -0.25), (-0.5, -0.25))
    middle = _polygon(u, v, (0, -0.6), (0.64, 0.2), (-0.64, 0.2))
    foot = _polygon(u, v, (0, -0.2), (0.78, 0.62), (-0.78, 0.62))
    return _union(top, middle, foot, _rectangle(u, v, -0.13, 0.5, 0.13, 0.95))


SIGNED_DISTANCES: tuple[Callable[[Field, Field], Field], ...] = (
    _arrow, _ball, _boat, _box, _butterfly, _car, _cross, _fish, _flower, _heart,
    _hourglass, _house, _key, _leaf, _moon, _mug, _plane, _ring, _star, _tree,
)  # fmt: skip
