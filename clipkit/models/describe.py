"""Describe a model from its configuration and a few stored scalars, without running it."""

from __future__ import annotations

from typing import Any

from clipkit.models.architecture import library_version, read_architecture
from clipkit.models.hub import combine_digests, find
from clipkit.models.weights import SCALARS, load_tensors


def describe_model(name: str) -> dict[str, Any]:
    """Return a model's towers, sizes and learned temperature.

    Parameters
    ----------
    name : str
        As in `load`.

    Returns
    -------
    dict
        ``name``, ``library`` (with its version), ``family``, ``digest``, ``weights`` (the digest
        of the weights alone), ``dim``, ``parameters``, ``logit_scale`` (exp of the learned one),
        ``temperature`` (its inverse), ``logit_bias`` if the model has one, and the towers
        ``image`` and ``text`` with what their library knows of ``layers``, ``width``, ``heads``,
        ``parameters``, ``patch_size`` and ``image_size``, ``context_length`` and ``vocabulary``. A
        model for images alone has no scale, temperature and ``text``, and may have no ``dim``.
    """
    files = find(name)
    architecture = read_architecture(files)
    architecture.check_stored(*architecture.towers)
    scalars = architecture.logit_scale(load_tensors(files, SCALARS))
    if scalars:
        scalars["temperature"] = 1 / scalars["logit_scale"]
    weights = files.digest_weights()
    described: dict[str, Any] = {
        "name": files.name,
        "library": library_version(files.library),
        "family": architecture.kind,
        "digest": combine_digests({**architecture.digest_side_files(), "weights": weights}),
        "weights": weights,
    }
    if architecture.dim:
        described["dim"] = architecture.dim
    described["parameters"] = architecture.parameters()
    return {**described, **scalars, **architecture.describe_towers()}
