"""A model's files -> its parts: one tower with its weights, stored or fresh; its image processor; its tokenizer."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from PIL import Image
from safetensors import SafetensorError, safe_open

from clipkit.errors import ClipkitError
from clipkit.models.hub import Files

Tower = Literal["image", "text"]
Tensors = Mapping[str, torch.Tensor]

PREFIXES = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
SCALARS = ("logit_scale", "logit_bias")


@dataclass(frozen=True)
class Family:
    """One kind of dual encoder: its classes in transformers, where a tower puts its embedding, how texts are padded."""

    config: str
    both: str
    towers: dict[Tower, str]
    output: dict[Tower, str]
    padding: str


FAMILIES = {
    "clip": Family(
        config="CLIPConfig",
        both="CLIPModel",
        towers={"image": "CLIPVisionModelWithProjection", "text": "CLIPTextModelWithProjection"},
        output={"image": "image_embeds", "text": "text_embeds"},
        padding="longest",  # attention is causal: what follows the end of a text cannot change its embedding
    ),
    "siglip": Family(
        config="SiglipConfig",
        both="SiglipModel",
        towers={"image": "SiglipVisionModel", "text": "SiglipTextModel"},
        output={"image": "pooler_output", "text": "pooler_output"},
        padding="max_length",  # it attends to the padding, and was trained with all of it
    ),
}


def read_config(files: Files) -> tuple[Family, Any]:
    """The model's family and its transformers configuration.

    Raises
    ------
    ClipkitError
        If config.json is damaged or tells of another kind of model.
    """
    content = files.json("config.json")
    kind = content.get("model_type")
    if kind not in FAMILIES:
        raise ClipkitError(
            f"{files.name} must be a dual encoder ({' or '.join(FAMILIES)}); its config.json says {kind!r}"
        )
    with quiet(), one_line(f"config.json of {files.name}"):
        return FAMILIES[kind], getattr(transformers, FAMILIES[kind].config).from_dict(content)


def embedding_size(config: Any) -> int:
    """The size D of the space that both towers share."""
    return int(
        config.projection_dim if config.model_type == "clip" else config.vision_config.hidden_size
    )


def stored(files: Files, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The stored tensors whose names begin so; no others are read."""
    found = {}
    for path in files.weights:
        try:
            with safe_open(path, framework="pt") as tensors:
                names = [name for name in tensors.keys() if name.startswith(prefixes)]
                found.update({name: tensors.get_tensor(name) for name in names})
        except (SafetensorError, OSError) as error:
            raise ClipkitError(f"{path} must be a whole safetensors file: {error}") from error
    return found


def initialised(
    files: Files, family: Family, config: Any, seed: int
) -> tuple[str, dict[str, torch.Tensor]]:
    """Digest and weights of a freshly initialised model; the caller's random numbers are left alone.

    The whole model is made, so that the towers of one seed belong together. The digest is SHA-256 over config.json and
    every tensor in name order.
    """
    with torch.random.fork_rng(devices=[]), quiet(), one_line(f"the architecture of {files.name}"):
        torch.default_generator.manual_seed(seed)
        state = dict(getattr(transformers, family.both)(config).state_dict())
    sha = hashlib.sha256((files.folder / "config.json").read_bytes())
    for name in sorted(state):
        sha.update(f"\0{name}\0{tuple(state[name].shape)}\0".encode())
        sha.update(state[name].reshape(-1).numpy())
    return f"sha256:{sha.hexdigest()}", state


def tower_model(
    files: Files, family: Family, config: Any, tower: Tower, state: Tensors
) -> torch.nn.Module:
    """One tower with these weights, in float32 and evaluation mode.

    Raises
    ------
    ClipkitError
        If weights are missing or of another shape than config.json says.
    """
    part = config.vision_config if tower == "image" else config.text_config
    part.projection_dim = embedding_size(
        config
    )  # a tower's own value may be a default; the whole model's counts
    dtype = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    with torch.random.fork_rng(devices=[]), quiet(), one_line(f"the weights of {files.name}"):
        model, report = getattr(transformers, family.towers[tower]).from_pretrained(
            None,
            config=part,
            state_dict={
                name: tensor for name, tensor in state.items() if name.startswith(PREFIXES[tower])
            },
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **{dtype: torch.float32},
        )
    for fault in ("missing", "mismatched"):
        if names := sorted(
            key if isinstance(key, str) else key[0] for key in report[f"{fault}_keys"]
        ):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ClipkitError(
                f"the weights of {files.name} must fit config.json; {fault}: {', '.join(names[:3])}{more}"
            )
    whole: torch.nn.Module = model.eval()
    return whole


def logit_scale(files: Files, state: Tensors) -> dict[str, float]:
    """``logit_scale``, exp of the learned one, by which cosines are multiplied; ``logit_bias`` where there is one."""
    if "logit_scale" not in state:
        raise ClipkitError(
            f"the weights of {files.name} must fit config.json; missing: logit_scale"
        )
    with one_line(f"the logit_scale of {files.name}"):
        scale = {"logit_scale": math.exp(state["logit_scale"].item())}
        return scale | ({"logit_bias": state["logit_bias"].item()} if "logit_bias" in state else {})


def image_processor(files: Files) -> Any:
    """The model's own image processor."""
    files.json("preprocessor_config.json")
    with quiet(), one_line(f"the image processor of {files.name}"):
        auto: Any = transformers.AutoImageProcessor
        return auto.from_pretrained(files.folder, trust_remote_code=False)


def tokenizer(files: Files) -> Any:
    """The model's own tokenizer."""
    # without its vocabulary transformers 5 gives, in silence, a tokenizer that knows nothing
    forms = (
        ("tokenizer.json",),
        ("vocab.json", "merges.txt"),
        ("spiece.model",),
        ("tokenizer.model",),
    )
    if not any(all((files.folder / file).is_file() for file in form) for form in forms):
        raise ClipkitError(
            f"{files.name} must hold its tokenizer: tokenizer.json, or vocab.json and merges.txt"
        )
    with quiet(), one_line(f"the tokenizer of {files.name}"):
        return transformers.AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)


def preprocessing(processor: Any) -> dict[str, Any]:
    """What of an image processor's configuration decides its result, as JSON can hold it."""
    keys = [
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "do_rescale",
        "rescale_factor",
    ]
    keys += ["do_normalize", "image_mean", "image_std"]
    found = {"processor": type(processor).__name__, "backend": getattr(processor, "backend", "pil")}
    for key in keys:
        value = getattr(processor, key, None)
        if key in {"size", "crop_size"} and value is not None:
            value = {edge: pixels for edge, pixels in dict(value).items() if pixels is not None}
        elif key == "resample" and value is not None:
            value = Image.Resampling(value).name.lower()
        found[key] = list(value) if isinstance(value, tuple) else value
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports and progress bars off the terminal; what matters in them is raised as an error."""
    log: Any = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn whatever transformers makes of damaged files into one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClipkitError(f"{what} could not be loaded: {reason}") from error
