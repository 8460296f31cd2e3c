"""Load one tower of a model: its configuration, and its weights as stored or at random."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError, safe_open

from clipkit.errors import LARGEST, SMALLEST, ClipkitError, UsageError
from clipkit.models.devices import DTYPES
from clipkit.models.families import (
    CLS,
    FAMILIES,
    MEAN,
    OPTIONAL_POOLERS,
    POOLER_SETTINGS,
    PROJECTED,
    Family,
    TowerName,
)
from clipkit.models.hub import ModelFiles, brief, check_no_pointer, combine_digests
from clipkit.models.towers import Tower, UnmaskedPatches

Tensors = Mapping[str, torch.Tensor]
Shape = tuple[int, ...]

PREFIXES = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
SCALARS = ("logit_scale", "logit_bias")
FLOATS = ("F16", "BF16", "F32", "F64")  # by safetensors' names
BUFFERS = re.compile(
    r".*\.(position_ids|summary_idxs)"
)  # which the first published checkpoints hold
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")  # of PyTorch's RuntimeErrors
MOST_MISSING = 2  # times the stored numbers: a model's pooler may be missing
MAX_LAYERS = 1000  # per tower; the largest known models have 64, and building a billion never ends


@dataclass(frozen=True)
class Architecture:
    """A model's files, family and transformers configuration: all but its weights."""

    files: ModelFiles
    family: Family
    config: Any

    @property
    def dim(self) -> int | None:
        """The embedding size D, which both towers share; None for a model of images alone."""
        if not self.family.is_dual:
            return None
        if self.config.model_type == "siglip":
            return int(self.config.vision_config.hidden_size)
        return int(self.config.projection_dim)

    def tower_config(self, tower: TowerName) -> Any:
        """Return the configuration of one tower."""
        if not self.family.is_dual:
            return self.config
        return self.config.vision_config if tower == "image" else self.config.text_config

    def new_model(self) -> Any:
        """Return all towers as transformers initialises them."""
        with single_line_errors(f"the architecture of {self.files.name}"):
            return getattr(transformers, self.family.model)(self.config)

    def sizes(self) -> dict[str, Shape]:
        """Return the shape of each tensor of all towers; nothing of their size is allocated."""
        with torch.device("meta"):
            tensors = self.new_model().state_dict()
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class LoadedTower(NamedTuple):
    """A tower in float32 on the CPU, the digests of its parts, and what `logit_scale` returns.

    The parts are the weights of all towers, as ``weights``, and the side files by their names. A
    model of images alone has no scale.
    """

    tower: Tower
    parts: dict[str, str]
    logit_scale: dict[str, float]

    def digests(self) -> dict[str, str]:
        """Return what a history records: the digest of all parts, and of the weights alone."""
        return {"digest": combine_digests(self.parts), "weights": self.parts["weights"]}


def read_architecture(files: ModelFiles) -> Architecture:
    """Read a model's config.json."""
    content = files.read_json("config.json")
    model_type = content.get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise ClipkitError(
            f"{files.name}: expected a model of one of the types {', '.join(FAMILIES)}, "
            f"got {model_type!r}"
        )
    projected = PROJECTED.get(str(model_type))
    if projected and content.get("architectures") == [projected.model]:
        family = projected
    with single_line_errors(f"config.json of {files.name}"):
        config = getattr(transformers, family.config).from_dict(content)
        architecture = Architecture(files, family, config)
        for tower in family.towers:
            layers = number_of_layers(architecture.tower_config(tower))
            if not 1 <= layers <= MAX_LAYERS:
                raise ValueError(
                    f"expected 1 to {MAX_LAYERS} layers per tower, got num_hidden_layers {layers}"
                )
    return architecture


def number_of_layers(config: Any) -> int:
    """Return the number of layers of a tower: of a ConvNeXt, those of all stages."""
    depths = getattr(config, "depths", None)
    return int(config.num_hidden_layers) if depths is None else sum(depths)


def load_tower(
    architecture: Architecture, tower: TowerName, seed: int | None, precision: str
) -> LoadedTower:
    """Load one tower with its stored weights, or with random ones if there is a seed.

    Raises
    ------
    UsageError
        If the model has no such tower.
    ClipkitError
        If the weights do not fit config.json.
    """
    files = architecture.files
    if tower not in architecture.family.towers:
        raise UsageError(
            f"{files.name}: expected a model with a {tower} tower, got "
            f"{architecture.config.model_type}, which is for images alone",
        )
    is_dual = architecture.family.is_dual
    with ThreadPoolExecutor(1) as thread:
        if seed is None:
            if is_dual:
                check_stored_tensors(architecture, tower)
            else:
                check_stored_size(architecture)
            # the digest reads all of the weights while transformers imports the model's classes
            digest = thread.submit(files.digest_weights)
            prefixes = (*PREFIXES[tower], *SCALARS) if is_dual else ("",)
            tensors = load_tensors(files, prefixes)
        else:
            tensors = random_weights(architecture, seed)
            digest = thread.submit(_tensors_digest, files, tensors)
        built = build_tower(architecture, tower, tensors)
        _check_range(files.name, built.model, precision)
        parts = {**files.digest_side_files(), "weights": digest.result()}
        scale = logit_scale(files, tensors) if is_dual else {}
        return LoadedTower(built, parts, scale)


def check_stored_size(architecture: Architecture) -> None:
    """Refuse a config.json that asks for far more numbers than the files hold."""
    headers = _read_headers(architecture.files, ("",))
    stored = sum(math.prod(shape) for _, shape in headers.values())
    expected = sum(math.prod(shape) for shape in architecture.sizes().values())
    if expected > MOST_MISSING * stored:
        raise ClipkitError(
            f"{architecture.files.name}: expected weights that fit config.json, which has "
            f"{expected:,} numbers, got {stored:,}"
        )
    for key, (kind, _) in headers.items():
        if kind not in FLOATS and not BUFFERS.fullmatch(key):
            raise _not_floats(architecture.files.name, kind, key)


def check_stored_tensors(architecture: Architecture, *towers: TowerName) -> None:
    """Compare names, shapes and types of the stored tensors with config.json.

    Only the headers of the files are read.

    Raises
    ------
    ClipkitError
        If a tensor of the towers is missing, of another shape, unexpected, or not of floats.
    """
    name = architecture.files.name
    prefixes = tuple(prefix for tower in towers for prefix in PREFIXES[tower])
    headers = _read_headers(architecture.files, prefixes + SCALARS)
    shapes = architecture.sizes()
    expected = {key: shape for key, shape in shapes.items() if key.startswith(prefixes)}
    stored = {key: shape for key, (_, shape) in headers.items() if key.startswith(prefixes)}
    unexpected = [key for key in stored.keys() - expected.keys() if not BUFFERS.fullmatch(key)]
    mismatched = [key for key in stored.keys() & expected.keys() if stored[key] != expected[key]]
    for problem, keys in (
        ("missing", expected.keys() - stored.keys()),
        ("mismatched", mismatched),
        ("unexpected", unexpected),
    ):
        if keys:
            raise _misfit(name, problem, keys)
    for key, (kind, _) in headers.items():
        if kind not in FLOATS and not BUFFERS.fullmatch(key):
            raise _not_floats(name, kind, key)


def _not_floats(name: str, kind: str, key: str) -> ClipkitError:
    return ClipkitError(f"{name}: expected weights in floating point, got {kind} for {key}")


def _read_headers(files: ModelFiles, prefixes: tuple[str, ...]) -> dict[str, tuple[str, Shape]]:
    """Return type and shape of the stored tensors whose names start with one of the prefixes."""
    headers: dict[str, tuple[str, Shape]] = {}
    for path in files.weights:
        with _open_weights(path) as stored:
            for name in stored.keys():  # noqa: SIM118  (it is no dict)
                if not name.startswith(prefixes):
                    continue
                if name in headers:
                    raise ClipkitError(f"{files.name}: expected each tensor once, got two {name}")
                tensor = stored.get_slice(name)
                headers[name] = (str(tensor.get_dtype()), tuple(tensor.get_shape()))
    return headers


def load_tensors(files: ModelFiles, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Read the stored tensors whose names start with one of the prefixes."""
    tensors = {}
    for path in files.weights:
        with _open_weights(path) as stored:
            for name in stored.keys():  # noqa: SIM118  (it is no dict)
                if name.startswith(prefixes):
                    tensors[name] = stored.get_tensor(name)
    return tensors


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


def random_weights(architecture: Architecture, seed: int) -> dict[str, torch.Tensor]:
    """Return the weights of both towers, so that the towers of one seed belong together."""
    _check_memory(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return dict(architecture.new_model().state_dict())


def _check_memory(architecture: Architecture) -> None:
    """Refuse a model that is larger than this machine's memory, whatever config.json asks for."""
    needed = sum(4 * math.prod(shape) for shape in architecture.sizes().values())
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available:
        raise ClipkitError(
            f"{architecture.files.name}: expected a model that fits into {available >> 30} GiB "
            f"of memory, got one of {needed >> 30:,} GiB",
            "check the sizes in config.json",
        )


def _tensors_digest(files: ModelFiles, tensors: Tensors) -> str:
    """Return the digest of random weights: of config.json and every tensor in name order."""
    sha = hashlib.sha256((files.folder / "config.json").read_bytes())
    for name in sorted(tensors):
        sha.update(f"\0{name}\0{tuple(tensors[name].shape)}\0".encode())
        sha.update(tensors[name].reshape(-1).numpy().data)
    return f"sha256:{sha.hexdigest()}"


def build_tower(architecture: Architecture, tower: TowerName, tensors: Tensors) -> Tower:
    """Build one tower with the given weights, in float32 and evaluation mode."""
    name = architecture.files.name
    family = architecture.family
    config = architecture.tower_config(tower)
    weights = tensors
    if family.is_dual:
        config.projection_dim = architecture.dim  # the tower's own value may be a mere default
        weights = {key: value for key, value in tensors.items() if key.startswith(PREFIXES[tower])}
    tower_class = getattr(transformers, family.towers[tower])
    with torch.random.fork_rng(devices=[]), single_line_errors(f"the weights of {name}"):
        model, report = tower_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    model.eval()
    output = family.outputs[tower]
    setting = POOLER_SETTINGS.get(config.model_type)
    if setting and not family.is_dual and not getattr(config, setting):
        output = MEAN
    missing = set(report["missing_keys"])
    pooler = OPTIONAL_POOLERS.get(config.model_type)
    if pooler and missing and all(key.startswith(pooler) for key in missing):
        output = CLS
        missing = set()
    mismatched = [key for key, *_shapes in report["mismatched_keys"]]
    unexpected = [] if family.is_dual else _inside(model, report["unexpected_keys"])
    for problem, keys in (
        ("missing", missing),
        ("mismatched", mismatched),
        ("unexpected", unexpected),
    ):
        if keys:
            raise _misfit(name, problem, keys)
    if config.model_type == "vit_mae":
        model = UnmaskedPatches(model)
    return Tower(model, output)


def _inside(model: Any, keys: Iterable[str]) -> list[str]:
    """Return those of the unknown tensors that do not belong to a head outside of the model."""
    children = {name for name, _ in model.named_children()}
    inner = []
    for key in keys:
        within = key.removeprefix(f"{model.base_model_prefix}.")
        if within.partition(".")[0] in children:
            inner.append(key)
    return inner


def _check_range(name: str, model: torch.nn.Module, precision: str) -> None:
    """Refuse weights that are NaN or too large: behind a ReLU, they may give finite embeddings."""
    largest = torch.finfo(DTYPES[precision]).max
    for key, parameter in model.named_parameters():
        low, high = torch.aminmax(parameter.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ClipkitError(f"{name}: expected finite weights, got NaN or Inf in {key}")
        if max(-low, high) > largest:
            raise ClipkitError(
                f"{name}: expected weights of at most {largest:g} in {precision}, "
                f"got {max(-low, high):g} in {key}",
                "try --precision fp32",
            )


def _misfit(name: str, problem: str, keys: Iterable[str]) -> ClipkitError:
    first, *others = sorted(keys)
    more = f" and {len(others)} more" if others else ""
    return ClipkitError(f"{name}: expected weights that fit config.json; {problem}: {first}{more}")


def logit_scale(files: ModelFiles, tensors: Tensors) -> dict[str, float]:
    """Return ``logit_scale``, by which the model multiplies cosines, and any ``logit_bias``.

    The weights hold the logarithm of the scale.
    """
    if "logit_scale" not in tensors:
        raise _misfit(files.name, "missing", ["logit_scale"])
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


@contextlib.contextmanager
def single_line_errors(what: str) -> Iterator[None]:
    """Silence transformers, and turn whatever it raises for damaged files into one line."""
    log: Any = transformers.utils.logging
    level = log.get_verbosity()
    hide_bars = log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings(), one_line(f"load {what}"):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if hide_bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def one_line(what: str, hint: str | None = None) -> Iterator[None]:
    """Turn whatever a library raises into one line, `cannot WHAT: REASON`."""
    try:
        yield
    except (ClipkitError, MemoryError):
        raise
    except Exception as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise MemoryError from error
        raise ClipkitError(f"cannot {what}: {brief(error)}", hint) from error
