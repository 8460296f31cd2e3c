"""Short names of OpenCLIP's models, ARCH/TAG: the repositories that they stand for.

The usual ones are listed here and need no further package. The others are looked up in open_clip's
own table, which is imported only for a name whose ARCH is one of open_clip's architectures.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.models.library_errors import import_library

PREFIX = "open_clip:"  # asks for OpenCLIP's form of a repository or folder that has several
# A repository of timm may also hold its image tower alone, by config.json, which goes first.
OPEN_CLIP_ALIASES = {
    "ViT-B-32/laion2b_s34b_b79k": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "ViT-B-32/datacomp_xl_s13b_b90k": "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    "ViT-B-32-256/datacomp_s34b_b86k": "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
    "ViT-B-16/laion2b_s34b_b88k": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "ViT-B-16/datacomp_xl_s13b_b90k": "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    "ViT-L-14/laion2b_s32b_b82k": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "ViT-L-14/datacomp_xl_s13b_b90k": "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    "ViT-H-14/laion2b_s32b_b79k": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "ViT-g-14/laion2b_s34b_b88k": "laion/CLIP-ViT-g-14-laion2B-s34B-b88K",
    "ViT-bigG-14/laion2b_s39b_b160k": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "ViT-B-16-SigLIP/webli": f"{PREFIX}timm/ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP2/webli": f"{PREFIX}timm/ViT-B-16-SigLIP2",
    "EVA02-B-16/merged2b_s8b_b131k": f"{PREFIX}timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k",
    "PE-Core-B-16/meta": f"{PREFIX}timm/PE-Core-B-16",
    "MobileCLIP2-S0/dfndr2b": f"{PREFIX}timm/MobileCLIP2-S0-OpenCLIP",
}


def look_up(name: str) -> str | None:
    """Return ``open_clip:`` and the repository of ARCH/TAG by open_clip's table.

    Return None if ARCH is none of open_clip's architectures, or open_clip is not installed.

    Raises
    ------
    UsageError
        If open_clip has the architecture, but no such weights of it.
    ClipkitError
        If these weights are in no repository.
    """
    architecture, _, tag = name.partition("/")
    if not tag or not _is_architecture(architecture):
        return None
    entry = import_library("open_clip").get_pretrained_cfg(architecture, tag)
    if not entry:
        raise unknown("model", name, names())
    file = str(entry.get("hf_hub", ""))  # REPOSITORY/FILE, where FILE may be empty
    repository = file.rpartition("/")[0]
    if not repository:
        raise ClipkitError(
            f"{name}: expected weights on the Hugging Face Hub, got only a pickle at a URL, which "
            "can run code and is not read"
        )
    return PREFIX + repository


def names() -> list[str]:
    """Return all pairs ARCH/TAG in open_clip's table; those listed here if it is not installed."""
    if _model_configs() is None:
        return list(OPEN_CLIP_ALIASES)
    pairs = import_library("open_clip").list_pretrained()
    return [f"{architecture}/{tag}" for architecture, tag in pairs]


def unknown_name(name: str, known: list[str]) -> UsageError:
    """Return the error for a name that is neither known nor in open_clip's table."""
    error = unknown("model", name, dict.fromkeys([*known, *names()]))
    if _model_configs() is None:
        more = "for the other names of OpenCLIP: pip install 'clipkit-vl[openclip]'"
        error = UsageError(error.message, f"{error.hint} {more}")
    return error


def _model_configs() -> Path | None:
    """Return the folder of open_clip's architectures, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name("model_configs")


def _is_architecture(name: str) -> bool:
    folder = _model_configs()
    return folder is not None and name in {path.stem for path in folder.glob("*.json")}
