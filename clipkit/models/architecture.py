"""What clipkit needs of a model, whichever library it belongs to."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import math
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from clipkit.base.errors import UsageError
from clipkit.models.hub import ModelFiles, check_installed, combine_digests
from clipkit.models.library_errors import quiet_loading
from clipkit.models.towers import NO_TEXT, Stack, Tower, TowerName
from clipkit.models.weights import (
    SCALARS,
    Shape,
    Tensors,
    check_memory,
    check_range,
    check_stored_tensors,
    load_tensors,
    logit_scale,
)

if TYPE_CHECKING:
    from clipkit.models.preprocessing import Preprocessor
    from clipkit.models.tokenizer import TextTokenizer

# The module of the adapter of each library that a model's files may belong to.
ADAPTERS = {
    "transformers": "transformers_models",
    "open_clip": "open_clip_models",
    "timm": "timm_models",
}


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

    Attributes
    ----------
    files : ModelFiles
        The model's files.
    kind : str
        What the library calls this kind of model.
    towers : tuple of {"image", "text"}
        The towers that clipkit reads. A model for images alone has no ``text``.
    no_text : str
        Why it has none.
    """

    library: ClassVar[str]
    files: ModelFiles
    kind: str
    towers: tuple[TowerName, ...]
    no_text: str = NO_TEXT

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
        """Return an image tower that `build` returned, without its projection, the last step.

        Raises
        ------
        UsageError
            If it has none.
        """
        raise UsageError(
            f"{self.files.name}: expected a model with a projection, got {self.kind}, which has "
            "none",
            "leave --no-projection out",
        )

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
        """Whether there is a text tower."""
        return "text" in self.towers

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
        """Load one tower with its stored weights, or with random ones if there is a seed.

        Raises
        ------
        UsageError
            If the model has no such tower.
        ClipkitError
            If the weights do not fit the configuration.
        """
        files = self.files
        if tower not in self.towers:
            raise UsageError(
                f"{files.name}: expected a model with a {tower} tower, got {self.kind}, "
                f"{self.no_text}",
            )
        with ThreadPoolExecutor(1) as thread:
            if seed is None:
                self.check_stored(tower)
                # the digest reads all of the weights while the library imports the model's classes
                digest = thread.submit(files.digest_weights)
                tensors = load_tensors(files, (*self.prefixes(tower), *SCALARS))
            else:
                tensors = self.random_weights(seed)
                digest = thread.submit(_tensors_digest, files, tensors)
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


def read_architecture(files: ModelFiles) -> Architecture:
    """Read a model's configuration by the adapter of its library.

    Raises
    ------
    ClipkitError
        If the library is not installed, or the configuration is not one that it can use.
    """
    check_installed(files.name, files.library)
    with quiet_loading(f"the library {files.library}"):
        adapter: Any = importlib.import_module(f"clipkit.models.{ADAPTERS[files.library]}")
    architecture: Architecture = adapter.ADAPTER.read(files)
    return architecture


def library_version(library: str) -> str:
    """Return a library's name and version, as a history records them."""
    if library == "transformers":  # CLIP's text tower does not import it
        return f"{library} {importlib.metadata.version(library)}"
    module = importlib.import_module(library)
    return f"{library} {module.__version__}"


def _tensors_digest(files: ModelFiles, tensors: Tensors) -> str:
    """Return the digest of random weights: of the configuration and each tensor in name order."""
    sha = hashlib.sha256((files.folder / files.config).read_bytes())
    for name in sorted(tensors):
        sha.update(f"\0{name}\0{tuple(tensors[name].shape)}\0".encode())
        sha.update(tensors[name].reshape(-1).numpy().data)
    return f"sha256:{sha.hexdigest()}"
