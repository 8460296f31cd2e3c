"""From scenes to pixels: signed-distance rendering of whole batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .outlines import SIGNED_DISTANCES
from .scene import BACKGROUNDS, COLOURS, GOLDEN, PATTERNS, Scene, mix, sample

Field = NDArray[Any]  # float32

_PIXELS_AT_ONCE = 1 << 16  # so that a batch's planes stay in the processor's cache
_WIDEST_BLUR = 0.022
_GREY = np.array([0.299, 0.587, 0.114])
_PALETTE = np.array(list(COLOURS.values()))
_BACKGROUND = np.array(list(BACKGROUNDS.values()))
_LATTICE = 9


def render(indices: ArrayLike, *, split: str, seed: int, size: int) -> NDArray[np.uint8]:
    """Draw images of a split; each depends on (seed, split, index) alone, never on its neighbours in the call.

    Parameters
    ----------
    indices : array_like of int, shape (n,)
    split : str
    seed : int
    size : int
        Width and height in pixels.

    Returns
    -------
    numpy.ndarray of uint8, shape (n, size, size, 3)

    Examples
    --------
    >>> alone = render([7], split="test", seed=0, size=32)
    >>> bool((alone == render([3, 7], split="test", seed=0, size=32)[1:]).all())
    True
    """
    return draw(sample(indices, split=split, seed=seed), size)[0]


def draw(scene: Scene, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scenes, as `sample` gives them.

    Returns
    -------
    images : numpy.ndarray of uint8, shape (n, size, size, 3)
    masks : numpy.ndarray of uint8, shape (n, size, size)
        How much of a pixel the object covers, of 255.
    """
    order = np.argsort(
        scene["outline"] * len(PATTERNS) + scene["pattern"], kind="stable"
    )  # outline by outline
    images = np.empty((len(order), size, size, 3), np.uint8)
    masks = np.empty((len(order), size, size), np.uint8)
    step = max(1, _PIXELS_AT_ONCE // size**2)
    bounds = np.flatnonzero(np.diff(scene["outline"][order])) + 1
    for group in np.split(order, bounds):
        for start in range(0, len(group), step):
            rows = group[start : start + step]
            images[rows], masks[rows] = _draw_group(
                {name: column[rows] for name, column in scene.items()}, size
            )
    return images, masks


def _draw_group(s: Scene, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scenes of one outline, ordered by pattern."""
    u, v, x, y = _coordinates(s, size)
    distance = SIGNED_DISTANCES[s["outline"][0]](u, v)
    distance *= _column(s["size"] * size / 2)  # in pixels
    cover = np.clip(0.5 - distance, 0, 1)
    inner = np.clip(0.5 - distance - _column(s["contour"] * size), 0, 1)
    paint, light, gloss = _pattern(s, u, v, size), *_shading(s, u, v)
    backdrop = _backdrop(s, x, y)
    base, second, contour, behind, beyond = _colours(s)
    planes = np.empty((len(u), 3, size, size), np.float32)
    for c in range(3):
        surface = paint * _column(second[:, c] - base[:, c])
        surface += _column(base[:, c])
        surface *= light
        surface += gloss
        surface -= _column(contour[:, c])
        surface *= inner
        plane = backdrop * _column(beyond[:, c] - behind[:, c])
        plane += _column(behind[:, c])
        plane += (_column(contour[:, c]) - plane) * cover
        np.add(plane, surface, out=planes[:, c])
    _blur(planes, s["blur"] * size, size)
    _add_noise(planes, s, size)
    planes *= 255
    planes += 0.5
    np.clip(planes, 0, 255, out=planes)
    return planes.astype(np.uint8).transpose(0, 2, 3, 1), (cover * 255 + 0.5).astype(np.uint8)


def _column(values: NDArray[np.float64]) -> Field:
    """(n,) -> (n, 1, 1), to go with planes."""
    return values.astype(np.float32)[:, None, None]


def _coordinates(s: Scene, size: int) -> tuple[Field, Field, Field, Field]:
    """Pixel centres in the object's coordinates, (n, size, size) twice, and in the frame's, -1 to 1: (size,) twice."""
    axis: Field = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    square = s["tilt"] ** 2
    cosine, sine = (1 - square) / (1 + square) / s["size"], 2 * s["tilt"] / (1 + square) / s["size"]
    dx, dy = (
        axis - _column(2 * s["x"]),
        axis[:, None] - _column(2 * s["y"]),
    )  # (n, 1, size), (n, size, 1)
    u = dx * _column(cosine) + dy * _column(sine)
    v = dy * _column(cosine) - dx * _column(sine)
    return u, v, axis[None, :], axis[:, None]


def _pattern(s: Scene, u: Field, v: Field, size: int) -> Field:
    """How much of the second colour a point takes: 0 to the scene's contrast."""
    paint = np.zeros_like(u)
    for code, name in enumerate(PATTERNS):
        rows = slice(*np.searchsorted(s["pattern"], [code, code + 1]))
        if name == "solid" or rows.start == rows.stop:
            continue
        period = _column(s["period"][rows] * size)
        scale = _column(s["size"][rows] / (2 * s["period"][rows]))
        across, down = (
            (z[rows] * scale + _column(s[phase][rows]))
            for z, phase in ((u, "phase_u"), (v, "phase_v"))
        )
        # distance from the middle of a period, 0 to 0.5
        across, down = (np.abs(z - np.floor(z) - np.float32(0.5)) for z in (across, down))
        if name == "striped":
            edge = (across - np.float32(0.25)) * period
        elif name == "banded":
            edge = (down - np.float32(0.25)) * period
        elif name == "dotted":
            edge = (np.float32(0.3) - np.sqrt(across * across + down * down)) * period
        else:
            across, down = (
                np.clip((z - np.float32(0.25)) * period, -0.5, 0.5) for z in (across, down)
            )
            edge = 2 * across * down
        np.clip(edge + np.float32(0.5), 0, 1, out=paint[rows])
    paint *= _column(s["contrast"])
    return paint


def _shading(s: Scene, u: Field, v: Field) -> tuple[Field, Field]:
    """What material does to light: a factor and a gloss that is added. Plastic shines in one spot, metal in a band."""
    light, gloss = np.ones_like(u), np.zeros_like(u)
    for row in np.flatnonzero(s["material"]):
        lean = np.float32(0.35 * s["highlight"][row])
        if s["material"][row] == 1:
            spot = (u[row] - lean) ** 2 + (v[row] + np.float32(0.4)) ** 2
            gloss[row] = np.float32(0.45) * np.maximum(1 - spot * 6, 0)
        else:
            band = np.abs(v[row] + lean * u[row] + lean)
            light[row] = np.float32(0.6) + np.float32(0.35) * np.minimum(band, 1)
            gloss[row] = np.float32(0.35) * np.maximum(1 - band * 2, 0)
    return light, gloss


def _backdrop(s: Scene, x: Field, y: Field) -> Field:
    """How far the background goes towards its second shade at each point, (n, size, size)."""
    field = np.zeros((len(s["key"]), y.size, x.size), np.float32)
    turn = s["backdrop_turn"]
    for row in np.flatnonzero(s["backdrop"]):
        if s["backdrop"][row] == 1:
            field[row] = (
                0.5 + np.float32(0.5 * turn[row]) * x + np.float32(0.5 * (1 - abs(turn[row]))) * y
            )
        else:
            field[row] = _value_noise(s["key"][row], x[0], y[:, 0])
    field *= _column(s["backdrop_strength"])
    return field


def _value_noise(key: np.uint64, x: Field, y: Field) -> Field:
    """Random heights on a lattice, interpolated linearly."""
    counter = np.arange(_LATTICE**2, dtype=np.uint64) * np.uint64(GOLDEN)
    lattice = (mix(mix(counter + key)) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    lattice = lattice.reshape(_LATTICE, _LATTICE)

    def along(rows: Field, axis: Field) -> Field:  # (_LATTICE, m) -> (len(axis), m)
        place = (axis + 1) * np.float32((_LATTICE - 1) / 2)
        low = np.minimum(place.astype(np.int64), _LATTICE - 2)
        part = (place - low.astype(np.float32))[:, None]
        mixed: Field = rows[low] * (1 - part) + rows[low + 1] * part
        return mixed

    field: Field = along(along(lattice, y).T, x).T
    return field


def _colours(s: Scene) -> tuple[NDArray[np.float64], ...]:
    """Five colours an image, (n, 3) each: object, second, contour, background, background's second shade."""
    light = s["colour_light"][:, None]
    base, second = (
        np.minimum(_PALETTE[s["colour"]] * light, 1),
        np.minimum(_PALETTE[s["second"]] * light, 1),
    )
    behind = np.minimum(_BACKGROUND[s["background"]] * s["background_light"][:, None], 1)
    dark = (base[:, 0] + base[:, 1] + base[:, 2] < 0.6)[:, None]
    contour = np.where(dark, 0.55 + 0.45 * base, 0.25 * base)
    bright = (behind[:, 0] + behind[:, 1] + behind[:, 2] > 1.4)[:, None]
    beyond = np.where(bright, 0.35 * behind, 0.5 + 0.5 * behind)
    grey = s["grey"][:, None]

    def toned(colour: NDArray[np.float64]) -> NDArray[np.float64]:
        r, g, b = (colour[:, i] * _GREY[i] for i in range(3))
        return np.where(grey, (r + g + b)[:, None], colour)

    return tuple(toned(colour) for colour in (base, second, contour, behind, beyond))


def _blur(planes: Field, sigma: NDArray[np.float64], size: int) -> None:
    """Blur in place by passes of the kernel (w, 1 - 2w, w), each of variance 2w, along both axes; edges repeat."""
    passes = math.ceil((_WIDEST_BLUR * size) ** 2 / 0.6)
    rows = np.flatnonzero(sigma)
    if not rows.size:
        return
    part = planes[rows]
    weight = (sigma[rows] ** 2 / (2 * passes)).astype(np.float32)[:, None, None, None]
    for _ in range(passes):
        for axis in (2, 3):
            padded = np.concatenate([part.take([0], axis), part, part.take([-1], axis)], axis)
            before, after = (
                (padded[:, :, :-2], padded[:, :, 2:])
                if axis == 2
                else (padded[..., :-2], padded[..., 2:])
            )
            part += weight * ((before + after) - 2 * part)
    planes[rows] = part


def _add_noise(planes: Field, s: Scene, size: int) -> None:
    """Add white noise of a fixed density: a picture shrunk from a larger one is as noisy as one drawn small."""
    rows = np.flatnonzero(s["noise"])
    if not rows.size:
        return
    counter = np.arange(size * size, dtype=np.uint64) * np.uint64(GOLDEN)
    words = (
        mix(s["key"][rows][:, None] + counter)
        .astype("<u8")
        .view("<u2")
        .reshape(len(rows), size, size, 4)
    )
    words[s["grey"][rows], ..., 1:] = words[s["grey"][rows], ..., :1]
    noise = words[..., :3].transpose(0, 3, 1, 2).astype(np.float32)
    noise *= np.float32(2.0**-15)
    noise -= 1
    noise *= _column(s["noise"][rows] * size / 64)[..., None]
    planes[rows] += noise
