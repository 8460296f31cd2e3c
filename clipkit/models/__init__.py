"""Load frozen CLIP-like dual encoders by name: an `Encoder` embeds images or texts.

Everything is imported when it is first used; `canonical_name` and `models.hub` need no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkit.base.lazy import lazy_names

if TYPE_CHECKING:
    from clipkit.models.acceleration import num_threads, set_num_threads
    from clipkit.models.encoder import Encoder, EncoderDescription, describe_model, load
    from clipkit.models.hub import canonical_name, check_device, check_name, is_python
    from clipkit.models.options import DEFAULT, RunOptions
else:
    __getattr__ = lazy_names(
        __name__,
        {
            f"{__name__}.acceleration": "num_threads set_num_threads",
            f"{__name__}.encoder": "Encoder EncoderDescription describe_model load",
            f"{__name__}.hub": "canonical_name check_device check_name is_python",
            f"{__name__}.options": "DEFAULT RunOptions",
        },
    )

__all__ = [
    "DEFAULT",
    "Encoder",
    "EncoderDescription",
    "RunOptions",
    "canonical_name",
    "check_device",
    "check_name",
    "describe_model",
    "is_python",
    "load",
    "num_threads",
    "set_num_threads",
]
