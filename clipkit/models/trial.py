"""Try an image tower on a few images, and say all that is found, also what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clipkit.base import user_code
from clipkit.base.errors import SMALLEST, ClipkitError
from clipkit.models.encoder import BATCH_TOLERANCES, ONE_BY_ONE, OWN, Encoder, load_unchecked
from clipkit.models.options import RunOptions
from clipkit.models.own_encoder import OwnTower, owned

OK, NOTE, WRONG = "ok", "note", "wrong"


class Finding(NamedTuple):
    """What a check of an encoder found: OK, NOTE or WRONG."""

    check: str
    result: str
    found: str


def try_encoder(name: Any, options: RunOptions, images: Sequence[Image.Image]) -> list[Finding]:
    """Load the image tower of a model, encode images one by one and together, and compare.

    Parameters
    ----------
    name : str, callable or object
        As in `models.load`.
    options : RunOptions
        How it runs. With a batch size of 1, the images are only encoded one by one.
    images : sequence of PIL.Image.Image
        At least two different ones.
    """
    findings: list[Finding] = []
    with user_code.collect_prints() as prints:
        began = time.perf_counter()
        try:
            encoder = load_unchecked(name, "image", options)
            findings.append(_load_finding(encoder, time.perf_counter() - began))
            findings += _try_encoder(encoder, images, options.batch_size)
        except ClipkitError as error:
            check = "encode" if findings else "load"
            findings.append(Finding(check, WRONG, str(error)))
    return [*findings, _print_finding(prints)]


def _load_finding(encoder: Encoder, seconds: float) -> Finding:
    found = f"{encoder.details['name']} in {seconds:.1f} s, "
    if encoder.has_digest:
        return Finding("load", OK, f"{found}{encoder.details['digest']}")
    advice = "name their files in files = [...], or give it another name when they change"
    return Finding("load", NOTE, f"{found}no digest of weights: {advice}")


def _try_encoder(encoder: Encoder, images: Sequence[Image.Image], batch_size: int) -> list[Finding]:
    """Return what is found about embeddings. An image that cannot be encoded alone is an error."""
    findings: list[Finding] = []
    _encode(encoder, images[:1])  # the first call takes longer
    alone, seconds = _timed(lambda: [_encode(encoder, [image]) for image in images])
    times = f"{1000 * seconds / len(images):.1f} ms an image alone"
    rows = np.concatenate(alone)
    findings.append(Finding("width", OK, str(rows.shape[1])))
    findings.append(_number_finding(rows))
    findings.append(_difference_finding(rows))
    if batch_size > 1:
        finding, seconds = _timed(lambda: _batch_finding(encoder, images, rows))
        findings.append(finding)
        if finding.result != WRONG:
            times += f", {1000 * seconds / len(images):.1f} ms in a batch"
    findings += _value_findings(encoder, images)
    return [*findings, Finding("time", OK, times)]


def _encode(encoder: Encoder, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    return np.asarray(encoder.encode_images(images))  # waits for a GPU


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    value = run()
    return value, time.perf_counter() - began


def _number_finding(rows: NDArray[np.float32]) -> Finding:
    """Look for rows (N, D) that are zeros or not finite."""
    infinite = int((~np.isfinite(rows).all(axis=1)).sum())
    zero = int((~rows.any(axis=1)).sum())
    if infinite or zero:
        found = f"{infinite} of {len(rows)} embeddings with NaN or Inf, {zero} of zeros"
        return Finding("numbers", WRONG, found)
    length = np.linalg.norm(rows, axis=1).mean()
    return Finding("numbers", OK, f"finite, none of zeros, mean length {length:.3g}")


def _difference_finding(rows: NDArray[np.float32]) -> Finding:
    different = len(np.unique(rows, axis=0))
    found = f"{different} different embeddings of {len(rows)} images"
    if different == 1:
        return Finding("different", WRONG, found)
    return Finding("different", OK if different == len(rows) else NOTE, found)


def _batch_finding(
    encoder: Encoder, images: Sequence[Image.Image], alone: NDArray[np.float32]
) -> Finding:
    """Compare the embeddings (N, D) of images in one batch with those of each image alone."""
    check = "batch"
    try:
        rows = _encode(encoder, images)
    except ClipkitError as error:
        return Finding(check, WRONG, str(error))
    if rows.shape != alone.shape:
        found = f"expected the shape {alone.shape} for {len(images)} images, got {rows.shape}"
        return Finding(check, WRONG, found)
    lengths = np.linalg.norm(alone, axis=1).clip(min=SMALLEST)
    change = float((np.linalg.norm(rows - alone, axis=1) / lengths).max())
    found = f"differs from images alone by at most {change:.2g} of an embedding's length"
    if not change <= BATCH_TOLERANCES[encoder.details.get("precision", OWN)]:
        return Finding(check, WRONG, f"{found}; hint: {ONE_BY_ONE}")
    return Finding(check, OK, found)


def _value_findings(encoder: Encoder, images: Sequence[Image.Image]) -> list[Finding]:
    """Say what the code of one's own encoder returns, and whether it uses a buffer again."""
    tower: Any = encoder._tower
    tower = getattr(tower, "model", tower)  # of hidden states
    if not isinstance(tower, OwnTower):
        return []
    first, later = (_inputs(encoder, image) for image in images[:2])
    with torch.inference_mode():
        value = tower.unowned(first)
        before = tower.as_tensor(first, owned(value))
        tower.unowned(later)
        after = tower.as_tensor(first, owned(value))
    values = Finding("values", OK, _describe(value))
    if torch.equal(before, after):
        return [values, Finding("buffer", OK, "each call returns other memory")]
    return [values, Finding("buffer", NOTE, "is used again; clipkit copies it after each call")]


def _inputs(encoder: Encoder, image: Image.Image) -> Any:
    """Return what the code of one's own encoder is called with for a batch of one image."""
    inputs: Any = encoder._normalize(encoder.preprocess(image))
    (batch,) = inputs.values()
    return batch


def _describe(value: Any) -> str:
    """Return the type of what code returned.

    >>> _describe([np.zeros(3), np.zeros(3)])
    'list of 2: ndarray float64 (3,)'
    """
    kind = type(value).__name__
    if isinstance(value, list | tuple) and value:
        return f"{kind} of {len(value)}: {_describe(value[0])}"
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{kind} {dtype} {tuple(value.shape)} on {value.device}"
    if isinstance(value, np.ndarray):
        return f"{kind} {value.dtype} {value.shape}"
    return kind


def _print_finding(prints: user_code.Prints) -> Finding:
    if not prints.text:
        return Finding("prints", OK, "nothing on standard output")
    first = prints.text.strip().partition("\n")[0]
    size = len(prints.text.encode())
    return Finding("prints", NOTE, f"{size:,} bytes go to standard error, first: {first}")
