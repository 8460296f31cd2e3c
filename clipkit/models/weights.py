"""Read a model's stored weights, and compare them with what its configuration asks for."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from clipkit.base.errors import LARGEST, SMALLEST, ClipkitError, brief
from clipkit.models.devices import DTYPES
from clipkit.models.hub import ModelFiles, check_no_pointer

Shape = tuple[int, ...]
Header = tuple[str, Shape]  # the type by safetensors' name, and the shape
Tensors = Mapping[str, torch.Tensor]
Content = TypeVar("Content")

SCALARS = ("logit_scale", "logit_bias")
FLOATS = ("F16", "BF16", "F32", "F64")  # by safetensors' names
# Whole numbers among the weights: the first published checkpoints hold places, and a batch norm
# counts its batches.
BUFFERS = re.compile(r"(.*\.)?(position_ids|summary_idxs|num_batches_tracked)")
MAX_LAYERS = 1000  # per tower; the largest known models have 64; a billion could not be built
MOST_MISSING = 2  # times the stored numbers: a model's pooler may be missing


def check_stored_size(files: ModelFiles, sizes: Mapping[str, Shape]) -> None:
    """Refuse a configuration that asks for far more numbers than the files hold."""
    headers = _read_headers(files, ("",))
    stored = sum(math.prod(shape) for _, shape in headers.values())
    expected = sum(math.prod(shape) for shape in sizes.values())
    if expected > MOST_MISSING * stored:
        raise ClipkitError(
            f"{files.name}: expected weights that fit {files.config}, which has "
            f"{expected:,} numbers, got {stored:,}"
        )
    _check_floats(files, headers)


def check_stored_tensors(
    files: ModelFiles,
    sizes: Mapping[str, Shape],
    prefixes: tuple[str, ...],
    *,
    ignored: Collection[str] = (),
) -> None:
    """Compare names, shapes and types of the stored tensors with the configuration.

    Only the headers of the files are read, and of those only the tensors whose names start with
    one of the prefixes and are not ignored.

    Raises
    ------
    ClipkitError
        If a tensor is missing, of another shape, unexpected, or not of floats.
    """
    headers = _read_headers(files, prefixes + SCALARS)
    headers = {key: header for key, header in headers.items() if key not in ignored}
    expected = {key: shape for key, shape in sizes.items() if key.startswith(prefixes)}
    stored = {key: shape for key, (_, shape) in headers.items() if key.startswith(prefixes)}
    shared = stored.keys() & expected.keys()
    refuse_misfits(
        files,
        missing=without_buffers(expected.keys() - stored.keys()),
        mismatched=[key for key in shared if stored[key] != expected[key]],
        unexpected=without_buffers(stored.keys() - expected.keys()),
    )
    _check_floats(files, headers)


def without_buffers(names: Iterable[str]) -> list[str]:
    """Leave out buffers of whole numbers, which may be missing or left over."""
    return [name for name in names if not BUFFERS.fullmatch(name)]


def refuse_misfits(files: ModelFiles, **problems: Iterable[str]) -> None:
    """Raise an error that names the first tensor with a problem, if there is one."""
    for problem, keys in problems.items():
        if not keys:
            continue
        first, *others = sorted(keys)
        more = f" and {len(others)} more" if others else ""
        raise ClipkitError(
            f"{files.name}: expected weights that fit {files.config}; {problem}: {first}{more}"
        )


def _check_floats(files: ModelFiles, headers: Mapping[str, Header]) -> None:
    for key, (kind, _) in headers.items():
        if kind not in FLOATS and not BUFFERS.fullmatch(key):
            raise ClipkitError(
                f"{files.name}: expected weights in floating point, got {kind} for {key}"
            )


def _read_headers(files: ModelFiles, prefixes: tuple[str, ...]) -> dict[str, Header]:
    """Return type and shape of the stored tensors whose names start with one of the prefixes."""
    headers: dict[str, Header] = {}
    for name, header in _read_stored(files, prefixes, _header):
        if name in headers:
            raise ClipkitError(f"{files.name}: expected each tensor once, got two {name}")
        headers[name] = header
    return headers


def _header(stored: Any, name: str) -> Header:
    tensor = stored.get_slice(name)
    return str(tensor.get_dtype()), tuple(tensor.get_shape())


def load_tensors(files: ModelFiles, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Read the stored tensors whose names start with one of the prefixes."""
    return dict(_read_stored(files, prefixes, lambda stored, name: stored.get_tensor(name)))


def _read_stored(
    files: ModelFiles, prefixes: tuple[str, ...], read: Callable[[Any, str], Content]
) -> Iterator[tuple[str, Content]]:
    """Yield each name that starts with one of the prefixes, with what `read` makes of its tensor.

    `read` gets the open file and the name. What it raises is reported as damage of the file.
    """
    for path in files.weights:
        with _open_weights(path) as stored:
            for name in stored.keys():  # noqa: SIM118  (it is no dict)
                if name.startswith(prefixes):
                    yield name, read(stored, name)


@contextlib.contextmanager
def _open_weights(path: Path) -> Iterator[Any]:
    """Open a safetensors file, whose tensors are read when they are asked for."""
    check_no_pointer(path)
    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise ClipkitError(
            f"{path}: expected a complete safetensors file: {brief(error)}"
        ) from error


def check_number_of_layers(name: str, count: int) -> None:
    """Refuse a setting of this name that asks for no layers, or for more than could be built."""
    if not 1 <= count <= MAX_LAYERS:
        raise ValueError(f"expected 1 to {MAX_LAYERS} layers per tower, got {name} {count}")


def check_memory(files: ModelFiles, sizes: Mapping[str, Shape]) -> None:
    """Refuse a model that is larger than this machine's memory, whatever its settings ask for."""
    needed = sum(4 * math.prod(shape) for shape in sizes.values())
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available:
        raise ClipkitError(
            f"{files.name}: expected a model that fits into {available >> 30} GiB "
            f"of memory, got one of {needed >> 30:,} GiB",
            f"check the sizes in {files.config}",
        )


def check_range(files: ModelFiles, model: torch.nn.Module, precision: str) -> None:
    """Refuse weights that are NaN or too large: behind a ReLU, they may give finite embeddings."""
    largest = torch.finfo(DTYPES[precision]).max
    for key, parameter in model.named_parameters():
        low, high = torch.aminmax(parameter.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ClipkitError(f"{files.name}: expected finite weights, got NaN or Inf in {key}")
        if max(-low, high) > largest:
            raise ClipkitError(
                f"{files.name}: expected weights of at most {largest:g} in {precision}, "
                f"got {max(-low, high):g} in {key}",
                "try --precision fp32",
            )


def logit_scale(files: ModelFiles, tensors: Tensors) -> dict[str, float]:
    """Return ``logit_scale``, by which the model multiplies cosines, and any ``logit_bias``.

    The weights hold the logarithm of the scale.
    """
    if "logit_scale" not in tensors:
        refuse_misfits(files, missing=["logit_scale"])
    scalars = {}
    for name in SCALARS:
        if name not in tensors:
            continue
        if tensors[name].numel() != 1:
            shape = tuple(tensors[name].shape)
            raise ClipkitError(
                f"{files.name}: expected one number as {name}, got the shape {shape}"
            )
        scalars[name] = tensors[name].item()
    log_scale = scalars["logit_scale"]
    # false for NaN, too
    if not math.log(SMALLEST) <= log_scale <= math.log(LARGEST):
        raise ClipkitError(
            f"{files.name}: expected exp(logit_scale) between {SMALLEST:g} and {LARGEST:g}, "
            f"got a logit_scale of {log_scale:g}"
        )
    if not math.isfinite(scalars.get("logit_bias", 0.0)):
        raise ClipkitError(
            f"{files.name}: expected a finite logit_bias, got {scalars['logit_bias']}"
        )
    return scalars | {"logit_scale": math.exp(log_scale)}
