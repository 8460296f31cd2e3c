"""What a model is, told without running it."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from clipkit.models.hub import find
from clipkit.models.loading import (
    PREFIXES,
    SCALARS,
    embedding_size,
    logit_scale,
    one_line,
    quiet,
    read_config,
    stored,
)


def describe_model(name: str) -> dict[str, Any]:
    """A model's towers, sizes and learned temperature, found without running it.

    Parameters
    ----------
    name : str
        As in `load`.

    Returns
    -------
    dict
        ``name``, ``family``, ``digest``, ``dim``, ``parameters``, ``logit_scale`` (exp of the learned one),
        ``temperature`` (its inverse), ``logit_bias`` where there is one, and the towers, ``image`` and ``text``:
        ``layers``, ``width``, ``heads``, ``parameters`` of each, ``patch_size`` and ``image_size``, ``context_length``
        and ``vocabulary``.
    """
    files = find(name)
    family, config = read_config(files)
    with torch.device("meta"), quiet(), one_line(f"the architecture of {files.name}"):
        model = getattr(transformers, family.both)(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    towers: dict[str, dict[str, int]] = {}
    for tower, part in (("image", config.vision_config), ("text", config.text_config)):
        count = sum(size for name, size in sizes.items() if name.startswith(PREFIXES[tower]))
        towers[tower] = {
            "layers": part.num_hidden_layers,
            "width": part.hidden_size,
            "heads": part.num_attention_heads,
        }
        towers[tower]["parameters"] = count
    vision, text = config.vision_config, config.text_config
    towers["image"] |= {"patch_size": vision.patch_size, "image_size": vision.image_size}
    towers["text"] |= {
        "context_length": text.max_position_embeddings,
        "vocabulary": text.vocab_size,
    }
    scale = logit_scale(files, stored(files, SCALARS))
    return {
        "name": files.name,
        "family": config.model_type,
        "digest": files.digest(),
        "dim": embedding_size(config),
        "parameters": sum(sizes.values()),
        **scale,
        "temperature": 1 / scale["logit_scale"],
        **towers,
    }
