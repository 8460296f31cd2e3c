"""Describe a model from its configuration and a few stored scalars, without running it."""

from __future__ import annotations

from typing import Any

import torch

from clipkit.models.hub import find
from clipkit.models.loading import PREFIXES, SCALARS, load_tensors, logit_scale, read_architecture


def describe_model(name: str) -> dict[str, Any]:
    """Return a model's towers, sizes and learned temperature.

    Parameters
    ----------
    name : str
        As in `load`.

    Returns
    -------
    dict
        ``name``, ``family``, ``digest``, ``dim``, ``parameters``, ``logit_scale`` (exp of the
        learned one), ``temperature`` (its inverse), ``logit_bias`` if the model has one, and the
        towers ``image`` and ``text`` with their ``layers``, ``width``, ``heads``, ``parameters``,
        ``patch_size`` and ``image_size``, ``context_length`` and ``vocabulary``.
    """
    files = find(name)
    architecture = read_architecture(files)
    with torch.device("meta"):
        model = architecture.new_model()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    config = architecture.config
    image = _tower(config.vision_config, sizes, PREFIXES["image"])
    image["patch_size"] = config.vision_config.patch_size
    image["image_size"] = config.vision_config.image_size
    text = _tower(config.text_config, sizes, PREFIXES["text"])
    text["context_length"] = config.text_config.max_position_embeddings
    text["vocabulary"] = config.text_config.vocab_size
    scalars = logit_scale(files, load_tensors(files, SCALARS))
    return {
        "name": files.name,
        "family": config.model_type,
        "digest": files.digest(),
        "dim": architecture.dim,
        "parameters": sum(sizes.values()),
        **scalars,
        "temperature": 1 / scalars["logit_scale"],
        "image": image,
        "text": text,
    }


def _tower(config: Any, sizes: dict[str, int], prefixes: tuple[str, ...]) -> dict[str, int]:
    return {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "parameters": sum(size for name, size in sizes.items() if name.startswith(prefixes)),
    }
