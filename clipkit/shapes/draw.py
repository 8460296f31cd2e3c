"""Render scenes to pixels from signed distances, whole batches at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.shapes.outlines import SIGNED_DISTANCES, Field
from clipkit.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    GOLDEN,
    PATTERNS,
    Scene,
    sample_scenes,
    splitmix64,
)

_PIXELS_AT_ONCE = 1 << 16  # keeps the planes of a batch in the processor's cache
_WIDEST_BLUR = 0.022
_LUMA = np.array([0.299, 0.587, 0.114])
_PALETTE = np.array(list(COLOURS.values()))
_BACKGROUND = np.array(list(BACKGROUNDS.values()))
_LATTICE = 9  # points along a side


def render(indices: ArrayLike, *, split: str, seed: int, size: int) -> NDArray[np.uint8]:
    """Render images (n,) of a split to pixels (n, size, size, 3).

    Each depends on (seed, split, index) alone, not on its neighbours.

    >>> alone = render([7], split="test", seed=0, size=32)
    >>> bool((alone == render([3, 7], split="test", seed=0, size=32)[1:]).all())
    True
    """
    return draw_scenes(sample_scenes(indices, split=split, seed=seed), size)[0]


def draw_scenes(scene: Scene, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw the scenes of `sample_scenes`.

    Return images (n, size, size, 3) and masks (n, size, size), which say how much of each pixel the
    object covers, of 255.
    """
    # by outline, then by pattern
    order = np.argsort(scene["outline"] * len(PATTERNS) + scene["pattern"], kind="stable")
    images = np.empty((len(order), size, size, 3), np.uint8)
    masks = np.empty((len(order), size, size), np.uint8)
    step = max(1, _PIXELS_AT_ONCE // size**2)
    bounds = np.flatnonzero(np.diff(scene["outline"][order])) + 1
    for group in np.split(order, bounds):
        for start in range(0, len(group), step):
            rows = group[start : start + step]
            part = {name: column[rows] for name, column in scene.items()}
            images[rows], masks[rows] = _draw_group(part, size)
    return images, masks


def _draw_group(scene: Scene, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scenes of one outline that are ordered by pattern."""
    axis: Field = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)  # pixel centres
    u, v = _object_coordinates(scene, axis)
    distance = SIGNED_DISTANCES[scene["outline"][0]](u, v)
    distance *= _column(scene["size"] * size / 2)  # in pixels
    coverage = np.clip(0.5 - distance, 0, 1)
    inner = np.clip(0.5 - distance - _column(scene["contour"] * size), 0, 1)
    paint = _pattern(scene, u, v, size)
    light, gloss = _shading(scene, u, v)
    backdrop = _backdrop(scene, axis)
    base, second, contour, near, far = _colours(scene)
    planes = np.empty((len(u), 3, size, size), np.float32)
    for c in range(3):
        surface = paint * _column(second[:, c] - base[:, c])
        surface += _column(base[:, c])
        surface *= light
        surface += gloss
        surface -= _column(contour[:, c])
        surface *= inner
        plane = backdrop * _column(far[:, c] - near[:, c])
        plane += _column(near[:, c])
        plane += (_column(contour[:, c]) - plane) * coverage
        np.add(plane, surface, out=planes[:, c])
    _blur(planes, scene["blur"] * size, size)
    _add_noise(planes, scene, size)
    planes *= 255
    planes += 0.5
    np.clip(planes, 0, 255, out=planes)
    images = planes.astype(np.uint8).transpose(0, 2, 3, 1)  # (n, 3, S, S) -> (n, S, S, 3)
    return images, (coverage * 255 + 0.5).astype(np.uint8)


def _column(values: NDArray[np.float64]) -> Field:
    """Return values (n,) as (n, 1, 1), to broadcast over planes."""
    return values.astype(np.float32)[:, None, None]


def _object_coordinates(scene: Scene, axis: Field) -> tuple[Field, Field]:
    """Return the pixel centres (n, size, size) in the object's coordinates, u and v."""
    # cosine and sine from the tangent of half the angle, divided by the object's size
    square = scene["tilt"] ** 2
    cosine = _column((1 - square) / (1 + square) / scene["size"])
    sine = _column(2 * scene["tilt"] / (1 + square) / scene["size"])
    dx = axis - _column(2 * scene["x"])  # (n, 1, size)
    dy = axis[:, None] - _column(2 * scene["y"])  # (n, size, 1)
    return dx * cosine + dy * sine, dy * cosine - dx * sine


def _pattern(scene: Scene, u: Field, v: Field, size: int) -> Field:
    """Return the share of the second colour at each point, 0 to the contrast of the scene."""
    paint = np.zeros_like(u)
    for code, name in enumerate(PATTERNS):
        rows = slice(*np.searchsorted(scene["pattern"], [code, code + 1]))
        if name == "solid" or rows.start == rows.stop:
            continue
        period = _column(scene["period"][rows] * size)
        scale = _column(scene["size"][rows] / (2 * scene["period"][rows]))
        across = _from_middle(u[rows] * scale + _column(scene["phase_u"][rows]))
        down = _from_middle(v[rows] * scale + _column(scene["phase_v"][rows]))
        edge = _pattern_edge(name, across, down, period)
        np.clip(edge + np.float32(0.5), 0, 1, out=paint[rows])
    paint *= _column(scene["contrast"])
    return paint


def _from_middle(z: Field) -> Field:
    """Return the distance from the middle of a period of length 1: 0 to 0.5."""
    distance: Field = np.abs(z - np.floor(z) - np.float32(0.5))
    return distance


def _pattern_edge(name: str, across: Field, down: Field, period: Field) -> Field:
    """Return the signed distance to the edge of a pattern, in pixels."""
    if name == "striped":
        return (across - np.float32(0.25)) * period
    if name == "banded":
        return (down - np.float32(0.25)) * period
    if name == "dotted":
        radius: Field = np.sqrt(across * across + down * down)
        return (np.float32(0.3) - radius) * period
    column: Field = np.clip((across - np.float32(0.25)) * period, -0.5, 0.5)
    row: Field = np.clip((down - np.float32(0.25)) * period, -0.5, 0.5)
    return 2 * column * row  # checkered


def _shading(scene: Scene, u: Field, v: Field) -> tuple[Field, Field]:
    """Return how the material changes light: a factor and a gloss that is added.

    Plastic shines in a spot, metal in a band.
    """
    light, gloss = np.ones_like(u), np.zeros_like(u)
    for row in np.flatnonzero(scene["material"]):
        lean = np.float32(0.35 * scene["highlight"][row])
        if scene["material"][row] == 1:
            spot = (u[row] - lean) ** 2 + (v[row] + np.float32(0.4)) ** 2
            gloss[row] = np.float32(0.45) * np.maximum(1 - spot * 6, 0)
        else:
            band = np.abs(v[row] + lean * u[row] + lean)
            light[row] = np.float32(0.6) + np.float32(0.35) * np.minimum(band, 1)
            gloss[row] = np.float32(0.35) * np.maximum(1 - band * 2, 0)
    return light, gloss


def _backdrop(scene: Scene, axis: Field) -> Field:
    """Return the share (n, size, size) of the background's second shade at each point."""
    field = np.zeros((len(scene["key"]), axis.size, axis.size), np.float32)
    for row in np.flatnonzero(scene["backdrop"]):
        if scene["backdrop"][row] == 1:
            turn = scene["backdrop_turn"][row]
            across = np.float32(0.5 * turn)
            down = np.float32(0.5 * (1 - abs(turn)))
            field[row] = 0.5 + across * axis + down * axis[:, None]
        else:
            field[row] = _value_noise(scene["key"][row], axis)
    field *= _column(scene["backdrop_strength"])
    return field


def _value_noise(key: np.uint64, axis: Field) -> Field:
    """Interpolate random heights on a lattice linearly."""
    counter = np.arange(_LATTICE**2, dtype=np.uint64) * np.uint64(GOLDEN)
    bits = splitmix64(splitmix64(counter + key)) >> np.uint64(40)
    lattice = (bits.astype(np.float32) * np.float32(2.0**-24)).reshape(_LATTICE, _LATTICE)
    field: Field = _interpolate(_interpolate(lattice, axis).T, axis).T
    return field


def _interpolate(lattice: Field, axis: Field) -> Field:
    """Interpolate the rows of a lattice (_LATTICE, m) at the points of an axis: (len(axis), m)."""
    position = (axis + 1) * np.float32((_LATTICE - 1) / 2)
    low = np.minimum(position.astype(np.int64), _LATTICE - 2)
    share = (position - low.astype(np.float32))[:, None]
    field: Field = lattice[low] * (1 - share) + lattice[low + 1] * share
    return field


def _colours(scene: Scene) -> list[NDArray[np.float64]]:
    """Return five colours (n, 3) of each scene.

    They are the object's first and second colour, its contour, and two shades of the background.
    """
    light = scene["colour_light"][:, None]
    base = np.minimum(_PALETTE[scene["colour"]] * light, 1)
    second = np.minimum(_PALETTE[scene["second"]] * light, 1)
    near = np.minimum(_BACKGROUND[scene["background"]] * scene["background_light"][:, None], 1)
    is_dark = _sum_channels(base) < 0.6
    contour = np.where(is_dark, 0.55 + 0.45 * base, 0.25 * base)
    is_bright = _sum_channels(near) > 1.4
    far = np.where(is_bright, 0.35 * near, 0.5 + 0.5 * near)
    is_grey = scene["grey"][:, None]
    return [
        np.where(is_grey, _sum_channels(colour * _LUMA), colour)
        for colour in (base, second, contour, near, far)
    ]


def _sum_channels(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return red + green + blue (n, 1), added in this order on every machine."""
    total: NDArray[np.float64] = colour[:, 0] + colour[:, 1] + colour[:, 2]
    return total[:, None]


def _blur(planes: Field, sigma: NDArray[np.float64], size: int) -> None:
    """Blur in place by passes of the kernel (w, 1 - 2w, w) along both axes; edges repeat.

    A pass has the variance 2w.
    """
    passes = math.ceil((_WIDEST_BLUR * size) ** 2 / 0.6)
    rows = np.flatnonzero(sigma)
    part = planes[rows]
    weight = (sigma[rows] ** 2 / (2 * passes)).astype(np.float32)[:, None, None, None]
    for _ in range(passes):
        down = np.pad(part, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
        part += weight * ((down[:, :, :-2] + down[:, :, 2:]) - 2 * part)
        across = np.pad(part, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="edge")
        part += weight * ((across[..., :-2] + across[..., 2:]) - 2 * part)
    planes[rows] = part


def _add_noise(planes: Field, scene: Scene, size: int) -> None:
    """Add white noise of a fixed density in place.

    An image shrunk from a larger one is as noisy as one drawn small.
    """
    rows = np.flatnonzero(scene["noise"])
    counter = np.arange(size * size, dtype=np.uint64) * np.uint64(GOLDEN)
    bits = splitmix64(scene["key"][rows][:, None] + counter).astype("<u8")
    words = bits.view("<u2").reshape(len(rows), size, size, 4)
    words[scene["grey"][rows], ..., 1:] = words[scene["grey"][rows], ..., :1]
    noise = words[..., :3].transpose(0, 3, 1, 2).astype(np.float32)
    noise *= np.float32(2.0**-15)
    noise -= 1
    noise *= _column(scene["noise"][rows] * size / 64)[..., None]
    planes[rows] += noise
