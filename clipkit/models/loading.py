"""Load one tower of a model: its configuration, and its weights as stored or at random."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import transformers
from safetensors import SafetensorError, safe_open

from clipkit.errors import ClipkitError
from clipkit.models.hub import ModelFiles, first_line

TowerName = Literal["image", "text"]
Tensors = Mapping[str, torch.Tensor]

PREFIXES = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
SCALARS = ("logit_scale", "logit_bias")


@dataclass(frozen=True)
class Family:
    """One kind of dual encoder: the names of its classes in transformers, and how it is used."""

    config: str
    model: str
    towers: dict[TowerName, str]
    outputs: dict[TowerName, str]  # the name under which a tower returns its embedding
    padding: str  # of texts


FAMILIES = {
    "clip": Family(
        config="CLIPConfig",
        model="CLIPModel",
        towers={"image": "CLIPVisionModelWithProjection", "text": "CLIPTextModelWithProjection"},
        outputs={"image": "image_embeds", "text": "text_embeds"},
        padding="longest",  # attention is causal: an embedding does not depend on what follows
    ),
    "siglip": Family(
        config="SiglipConfig",
        model="SiglipModel",
        towers={"image": "SiglipVisionModel", "text": "SiglipTextModel"},
        outputs={"image": "pooler_output", "text": "pooler_output"},
        padding="max_length",  # it attends to the padding, and was trained with all of it
    ),
}


@dataclass(frozen=True)
class Architecture:
    """A model's files, family and transformers configuration: all but its weights."""

    files: ModelFiles
    family: Family
    config: Any

    @property
    def dim(self) -> int:
        """The embedding size D, which both towers share."""
        if self.config.model_type == "clip":
            return int(self.config.projection_dim)
        return int(self.config.vision_config.hidden_size)

    def new_model(self) -> Any:
        """Return both towers as transformers initialises them."""
        with single_line_errors(f"the architecture of {self.files.name}"):
            return getattr(transformers, self.family.model)(self.config)


class LoadedTower(NamedTuple):
    """A tower in float32 on the CPU, its weights' digest, and what `logit_scale` returns."""

    model: torch.nn.Module
    digest: str
    logit_scale: dict[str, float]


def read_architecture(files: ModelFiles) -> Architecture:
    """Read a model's config.json."""
    content = files.read_json("config.json")
    model_type = content.get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise ClipkitError(
            f"{files.name}: expected a dual encoder ({' or '.join(FAMILIES)}), "
            f"got the model type {model_type!r}"
        )
    with single_line_errors(f"config.json of {files.name}"):
        config = getattr(transformers, family.config).from_dict(content)
    return Architecture(files, family, config)


def load_tower(architecture: Architecture, tower: TowerName, seed: int | None) -> LoadedTower:
    """Load one tower with its stored weights, or with random ones if there is a seed."""
    files = architecture.files
    with ThreadPoolExecutor(1) as thread:
        if seed is None:
            # the digest reads all of the weights while transformers imports the model's classes
            digest = thread.submit(files.digest)
            tensors = load_tensors(files, (*PREFIXES[tower], *SCALARS))
        else:
            tensors = random_weights(architecture, seed)
            digest = thread.submit(_tensors_digest, files, tensors)
        model = build_tower(architecture, tower, tensors)
        return LoadedTower(model, digest.result(), logit_scale(files, tensors))


def load_tensors(files: ModelFiles, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Read the stored tensors whose names start with one of the prefixes."""
    tensors = {}
    for path in files.weights:
        try:
            with safe_open(path, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118  (it is no dict)
                    if name.startswith(prefixes):
                        tensors[name] = stored.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ClipkitError(
                f"{path}: expected a complete safetensors file: {first_line(error)}"
            ) from error
    return tensors


def random_weights(architecture: Architecture, seed: int) -> dict[str, torch.Tensor]:
    """Return the weights of both towers, so that the towers of one seed belong together."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return dict(architecture.new_model().state_dict())


def _tensors_digest(files: ModelFiles, tensors: Tensors) -> str:
    """Return the digest of random weights: of config.json and every tensor in name order."""
    sha = hashlib.sha256((files.folder / "config.json").read_bytes())
    for name in sorted(tensors):
        sha.update(f"\0{name}\0{tuple(tensors[name].shape)}\0".encode())
        sha.update(tensors[name].reshape(-1).numpy().data)
    return f"sha256:{sha.hexdigest()}"


def build_tower(architecture: Architecture, tower: TowerName, tensors: Tensors) -> torch.nn.Module:
    """Build one tower with the given weights, in float32 and evaluation mode."""
    name = architecture.files.name
    config = architecture.config
    config = config.vision_config if tower == "image" else config.text_config
    config.projection_dim = architecture.dim  # the tower's own value may be a mere default
    weights = {key: value for key, value in tensors.items() if key.startswith(PREFIXES[tower])}
    tower_class = getattr(transformers, architecture.family.towers[tower])
    with torch.random.fork_rng(devices=[]), single_line_errors(f"the weights of {name}"):
        model, report = tower_class.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    mismatched = [key for key, *_shapes in report["mismatched_keys"]]
    for problem, keys in (("missing", report["missing_keys"]), ("mismatched", mismatched)):
        if keys:
            raise _misfit(name, problem, keys)
    model.eval()
    return model  # type: ignore[no-any-return]


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
    with single_line_errors(f"the logit_scale of {files.name}"):
        scalars = {"logit_scale": math.exp(tensors["logit_scale"].item())}
        if "logit_bias" in tensors:
            scalars["logit_bias"] = tensors["logit_bias"].item()
    return scalars


@contextlib.contextmanager
def single_line_errors(what: str) -> Iterator[None]:
    """Silence transformers, and turn whatever it raises for damaged files into one line."""
    log: Any = transformers.utils.logging
    level = log.get_verbosity()
    hide_bars = log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    except Exception as error:
        raise ClipkitError(f"cannot load {what}: {first_line(error)}") from error
    finally:
        log.set_verbosity(level)
        if hide_bars:
            log.enable_progress_bar()
