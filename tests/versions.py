"""The versions of libraries that give the bytes, digits and texts which tests expect.

clipkit works with older ones, down to the bounds of pyproject.toml: `make oldest` tries them.
"""

from __future__ import annotations

import re
from importlib import metadata

import pytest


def is_older(library: str, first: str) -> bool:
    """Whether the installed version of a library is below another one."""
    installed, other = (
        [int(number) for number in re.findall(r"\d+", text)[:3]]
        for text in (metadata.version(library), first)
    )
    return installed < other


def since(library: str, first: str, reason: str) -> pytest.MarkDecorator:
    """Skip a test with versions of a library before `first`."""
    return pytest.mark.skipif(is_older(library, first), reason=f"{library} before {first} {reason}")


def need(mark: pytest.MarkDecorator) -> None:
    """Skip the test that asks for a model which a library cannot make."""
    if mark.args[0]:
        pytest.skip(mark.kwargs["reason"])


CHUNKS = since("h5py", "3.16", "finds a chunk's address otherwise")
BLIP = since("transformers", "5.4", "takes no other tokenizer for BLIP than BERT's")
GEMMA = since("transformers", "5.4", "makes no tokenizer of Gemma from a vocabulary")
PIXELS = since("transformers", "5.4", "resizes images by Pillow")
TIMM = since("timm", "1.0.27", "takes model.safetensors of a local folder for a pickle")
TINY_TOKENS = since("transformers", "5.4", "splits the words of tiny otherwise than clipkit")
TOKEN_TYPES = since("transformers", "5.4", "gives LLaVA token types, which its generate refuses")
TINY_LLAVA = since("transformers", "5.6", "cannot read tiny-llava")
HELP = since("typer", "0.29", "shows types and ranges in its help, and words errors otherwise")
