"""Choose the device a model runs on, the precision it computes in and its number of threads."""

from __future__ import annotations

import torch

from clipkit.base import console
from clipkit.base.errors import ClipkitError, unknown
from clipkit.models.hub import check_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """Return the device with this name; ``auto`` is the first of a GPU, MPS and the CPU."""
    counts = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    check_device(name)
    kind, _, index = name.partition(":")
    if int(index or 0) >= counts[kind]:
        raise ClipkitError(
            f"cannot use the device {name}: PyTorch {torch.__version__} finds "
            f"{console.count(counts[kind], f'{kind} device')}",
            "use --device auto",
        )
    return torch.device(name)


def choose_precision(name: str, device: torch.device, tower: str) -> str:
    """Return the precision with this name.

    ``auto`` is float32 for texts: they are few, and the rounding error of one prompt affects every
    image's entropy. For images it is the fastest precision that the device has natively.
    """
    if name in DTYPES:
        return name
    if name != "auto":
        raise unknown("precision", name, ["auto", *DTYPES])
    if tower == "text":
        return "fp32"
    if device.type == "mps":
        return "fp16"
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if has_bfloat16 else "fp16"
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "bf16" if has_bfloat16 else "fp32"


def num_threads() -> int:
    """Return the number of threads that PyTorch computes with on a CPU.

    It decides how sums are divided. In bfloat16 the last bits of a large model depend on it.
    """
    return torch.get_num_threads()


def set_num_threads(number: int) -> None:
    """Let PyTorch compute with this many threads, before a model is loaded."""
    torch.set_num_threads(number)
