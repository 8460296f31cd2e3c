"""A model before it runs: its configuration by one of the libraries, and its stored weights."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from clipkit.base.errors import LARGEST, SMALLEST, ClipkitError, UsageError, brief
from clipkit.base.names import omit
from clipkit.features.history import MAX_LAYERS
from clipkit.models.acceleration import DTYPES
from clipkit.models.hub import ModelFiles, check_no_pointer, combine_digests
from clipkit.models.towers import NO_TEXT, Stack, Tower, TowerName

if TYPE_CHECKING:
    from clipkit.models.preprocessing import Preprocessor
    from clipkit.models.tokenizer import TextTokenizer

Shape = tuple[int, ...]
Header = tuple[str, Shape]  # the type by safetensors' name, and the shape
Tensors = Mapping[str, torch.Tensor]
Content = TypeVar("Content")

SCALARS = ("logit_scale", "logit_bias")
TAKEN_BY_TEXTS = ("untrained", "precision", "layers", "norm")
TAKEN = {"image": (*TAKEN_BY_TEXTS, "pool", "projection"), "text": TAKEN_BY_TEXTS}
FLOATS = ("F16", "BF16", "F32", "F64")  # by safetensors' names
# Whole numbers among the weights: the first published checkpoints and a Swin hold places, and a
# batch norm counts its batches.
BUFFERS = re.compile(
    r"(.*\.)?(position_ids|summary_idxs|num_batches_tracked|relative_position_index)"
)
MOST_MISSING = 2  # times the stored numbers: a model's pooler may be missing


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


class Architecture(ABC):
    """A model without its weights. Each library has a subclass, with a `read` of its files.

    `taken` are the settings of each tower. `kind` is what the library calls this kind of model.
    `towers` are those that clipkit reads, and `no_text` says why one is missing, if one is.
    `is_tested` tells whether clipkit's tests compare this kind of model with its library.
    """

    library: ClassVar[str]
    taken: ClassVar[Mapping[str, tuple[str, ...]]] = TAKEN
    files: ModelFiles
    kind: str
    towers: tuple[TowerName, ...]
    no_text: str = NO_TEXT
    is_tested: bool = True

    @classmethod
    @abstractmethod
    def read(cls, files: ModelFiles) -> Architecture:
        """Read the configuration, and check it. No weights are read."""

    @abstractmethod
    def new_model(self) -> Any:
        """Return the whole model as the library initialises it, by PyTorch's generator."""

    @abstractmethod
    def prefixes(self, tower: TowerName) -> tuple[str, ...]:
        """Return how the names of a tower's tensors start; ``("",)`` if it is the whole model."""

    def check_stored(self, *towers: TowerName) -> None:
        """Compare names, shapes and types of the stored tensors with the configuration."""
        prefixes: list[str] = []
        for tower in towers:
            prefixes += self.prefixes(tower)
        check_stored_tensors(self.files, self.sizes(), tuple(prefixes))

    @abstractmethod
    def build(self, tower: TowerName, tensors: Tensors) -> Tower:
        """Build one tower with the given weights, in float32 and evaluation mode."""

    @abstractmethod
    def stack(self, tower: Tower) -> Stack:
        """Return the layers of a tower that `build` returned."""

    def without_projection(self, tower: Tower) -> Tower:
        """Return an image tower that `build` returned, without its projection, the last step."""
        raise UsageError(
            f"{self.files.name}: expected a model with a projection, got {self.kind}, which has "
            "none",
            "leave --no-projection out",
        )

    def resize(self, edge: int) -> None:
        """Let the image tower take images of another edge, in pixels, before it is built."""
        raise NotImplementedError("a library whose models take image_size resizes them")

    @abstractmethod
    def preprocessor(self, device: torch.device, dtype: torch.dtype) -> Preprocessor:
        """Return the preprocessor of the image tower."""

    @abstractmethod
    def tokenizer(self, *, clean: bool) -> TextTokenizer:
        """Return the tokenizer of the text tower."""

    @abstractmethod
    def describe_towers(self) -> dict[str, dict[str, Any]]:
        """Return what `describe_model` says of each tower."""

    @property
    @abstractmethod
    def dim(self) -> int | None:
        """The embedding size D of the image tower; None if only an embedding tells."""

    @property
    def is_dual(self) -> bool:
        """Whether there is a tower for images and one for texts."""
        return len(self.towers) == 2

    @cached_property
    def outline(self) -> Any:
        """The whole model without numbers: its tensors have shapes alone."""
        with torch.device("meta"):
            return self.new_model()

    def sizes(self) -> dict[str, Shape]:
        """Return the shape of each tensor of the model; nothing of their size is allocated."""
        tensors = self.outline.state_dict()
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def parameters(self, tower: TowerName | None = None) -> int:
        """Count the numbers of the tensors of a tower, or of the whole model."""
        prefixes = self.prefixes(tower) if tower else ("",)
        return sum(
            math.prod(size) for name, size in self.sizes().items() if name.startswith(prefixes)
        )

    def load_tower(self, tower: TowerName, seed: int | None, precision: str) -> LoadedTower:
        """Load one tower with its stored weights, or with random ones if there is a seed."""
        files = self.files
        if tower not in self.towers:
            expected = {"image": "an image tower", "text": "a text tower"}[tower]
            raise UsageError(
                f"{files.name}: expected a model with {expected}, got {self.kind}, {self.no_text}"
            )
        with ThreadPoolExecutor(1) as thread:
            if seed is None:
                self.check_stored(tower)
                # the digest reads all of the weights while the library imports the model's classes
                digest = thread.submit(files.digest_weights)
                tensors = load_tensors(files, (*self.prefixes(tower), *SCALARS))
            else:
                tensors = self.random_weights(seed)
                digest = thread.submit(tensors_digest, files, tensors)
            with torch.random.fork_rng(devices=[]):
                built = self.build(tower, tensors)
            check_range(files, built.model, precision)
            parts = {**self.digest_side_files(), "weights": digest.result()}
            return LoadedTower(built, parts, self.logit_scale(tensors))

    def digest_side_files(self) -> dict[str, str]:
        """Return ``sha256:<hex>`` of each file of settings or of a vocabulary."""
        return self.files.digest_side_files()

    def logit_scale(self, tensors: Tensors) -> dict[str, float]:
        """Return the scale and any bias of a dual encoder's logits; {} of other models."""
        return logit_scale(self.files, tensors) if self.is_dual else {}

    def random_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """Return the weights of all towers, so that the towers of one seed belong together."""
        check_memory(self.files, self.sizes())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return dict(self.new_model().state_dict())


def tensors_digest(files: ModelFiles, tensors: Tensors) -> str:
    """Return the digest of random weights: of the configuration and each tensor in name order."""
    sha = hashlib.sha256((files.folder / files.config).read_bytes())
    for name in sorted(tensors):
        sha.update(f"\0{name}\0{tuple(tensors[name].shape)}\0".encode())
        sha.update(tensors[name].reshape(-1).numpy().data)
    return f"sha256:{sha.hexdigest()}"


# ---- Stored weights ------------------------------------------------------------------------------


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

    Only the headers of the files are read, and of those only the tensors with names that start with
    one of the prefixes and are not ignored.
    """
    headers = _read_headers(files, prefixes + SCALARS)
    headers = omit(headers, ignored)
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
    """Return type and shape of the stored tensors with one of the prefixes."""
    headers: dict[str, Header] = {}
    for name, header in _read_stored(files, prefixes, _header):
        if name in headers:
            raise ClipkitError(f"{files.name}: expected each tensor once, got two {name}")
        headers[name] = header
    return headers


def _header(stored: Any, name: str) -> Header:
    tensor = stored.get_slice(name)
    return str(tensor.get_dtype()), tuple(tensor.get_shape())


def load_tensors(
    files: ModelFiles, prefixes: tuple[str, ...], *, mapped: bool = False
) -> dict[str, torch.Tensor]:
    """Read the stored tensors with one of the prefixes.

    They are copied to memory that PyTorch allocates, or are `mapped`, which takes no memory. In a
    file, a tensor begins at any address, and the last bits of a product may depend on it.
    """

    def read(stored: Any, name: str) -> torch.Tensor:
        tensor: torch.Tensor = stored.get_tensor(name)
        return tensor if mapped else tensor.clone()

    return dict(_read_stored(files, prefixes, read))


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
    """Open a safetensors file; its tensors are read when they are asked for."""
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


def check_memory(files: ModelFiles, sizes: Mapping[str, Shape], width: int = 4) -> None:
    """Refuse a model that is larger than this machine's memory, whatever its settings ask for.

    A number takes `width` bytes.
    """
    needed = sum(width * math.prod(shape) for shape in sizes.values())
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
        if not parameter.numel():  # a DINOv3 without registers has a parameter of none
            continue
        low, high = torch.aminmax(parameter.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ClipkitError(f"{files.name}: expected finite weights, got NaN or Inf in {key}")
        if max(-low, high) > largest:
            raise ClipkitError(
                f"{files.name}: expected weights of at most {largest:g} in {precision}, "
                f"got {max(-low, high):g} in {key}",
                "try --precision fp32",
            )


NOT_FINITE_HINT = "check the numbers in its JSON files, or try --precision fp32"


def not_finite(what: str, hint: str | None = NOT_FINITE_HINT) -> ClipkitError:
    """Return the error for numbers of a first image or prompt that are NaN or Inf."""
    return ClipkitError(f"expected a finite {what}, got NaN or Inf", hint)


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
