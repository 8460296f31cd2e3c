"""Describe a model from its configuration and a few stored scalars, without running it."""

from __future__ import annotations

import math
from typing import Any

from clipkit.models.hub import combine_digests, find
from clipkit.models.loading import (
    PREFIXES,
    SCALARS,
    Architecture,
    check_stored_size,
    check_stored_tensors,
    load_tensors,
    logit_scale,
    number_of_layers,
    read_architecture,
)


def describe_model(name: str) -> dict[str, Any]:
    """Return a model's towers, sizes and learned temperature.

    Parameters
    ----------
    name : str
        As in `load`.

    Returns
    -------
    dict
        ``name``, ``family``, ``digest``, ``weights`` (the digest of the weights alone), ``dim``,
        ``parameters``, ``logit_scale`` (exp of the learned one), ``temperature`` (its inverse),
        ``logit_bias`` if the model has one, and the towers ``image`` and ``text`` with their
        ``layers``, ``width``, ``heads``, ``parameters``, ``patch_size`` and ``image_size``,
        ``context_length`` and ``vocabulary``. A model for images alone has no ``dim``, scale,
        temperature and ``text``.
    """
    files = find(name)
    architecture = read_architecture(files)
    if not architecture.family.is_dual:
        return _describe_vision_model(architecture)
    check_stored_tensors(architecture, "image", "text")
    sizes = {name: math.prod(shape) for name, shape in architecture.sizes().items()}
    config = architecture.config
    image = _tower(config.vision_config, sizes, PREFIXES["image"])
    image["patch_size"] = config.vision_config.patch_size
    image["image_size"] = config.vision_config.image_size
    text = _tower(config.text_config, sizes, PREFIXES["text"])
    text["context_length"] = config.text_config.max_position_embeddings
    text["vocabulary"] = config.text_config.vocab_size
    scalars = logit_scale(files, load_tensors(files, SCALARS))
    weights = files.digest_weights()
    return {
        "name": files.name,
        "family": config.model_type,
        "digest": combine_digests({**files.digest_side_files(), "weights": weights}),
        "weights": weights,
        "dim": architecture.dim,
        "parameters": sum(sizes.values()),
        **scalars,
        "temperature": 1 / scalars["logit_scale"],
        "image": image,
        "text": text,
    }


def _describe_vision_model(architecture: Architecture) -> dict[str, Any]:
    files = architecture.files
    check_stored_size(architecture)
    weights = files.digest_weights()
    config = architecture.config
    widths = getattr(config, "hidden_sizes", None) or [config.hidden_size]
    image = {"layers": number_of_layers(config), "width": widths[-1]}
    for name in ("num_attention_heads", "patch_size", "image_size"):
        if isinstance(getattr(config, name, None), int):
            image[name.removeprefix("num_attention_")] = getattr(config, name)
    return {
        "name": files.name,
        "family": config.model_type,
        "digest": combine_digests({**files.digest_side_files(), "weights": weights}),
        "weights": weights,
        "parameters": sum(math.prod(shape) for shape in architecture.sizes().values()),
        "image": image,
    }


def _tower(config: Any, sizes: dict[str, int], prefixes: tuple[str, ...]) -> dict[str, int]:
    return {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "parameters": sum(size for name, size in sizes.items() if name.startswith(prefixes)),
    }
