"""Turn whatever a library raises for damaged files into one line."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

from clipkit.base.errors import ClipkitError, brief

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")  # of PyTorch's RuntimeErrors

# What the Hub's library says of a setting, in some lines
WRONG_TYPE = re.compile(r"Field '(\w+)' expected (\w+), got \w+ \(value: ([^\n]{1,60}?)\)")
TYPES = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}


@contextlib.contextmanager
def quiet_loading(what: str) -> Iterator[None]:
    """Silence transformers, and turn whatever it raises into `cannot load WHAT: REASON`."""
    import transformers  # takes longer than PyTorch; CLIP's text tower does not import it

    log: Any = transformers.utils.logging
    level = log.get_verbosity()
    hide_bars = log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings(), single_line_errors(f"load {what}"):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if hide_bars:
            log.enable_progress_bar()


def import_library(name: str) -> Any:
    """Import a library that is installed, or say in one line why that fails."""
    with quiet_loading(f"the library {name}"):
        return importlib.import_module(name)


@contextlib.contextmanager
def single_line_errors(what: str, hint: str | None = None) -> Iterator[None]:
    """Turn whatever a library raises into one line, `cannot WHAT: REASON`."""
    try:
        yield
    except (ClipkitError, MemoryError):
        raise
    except Exception as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise MemoryError from error
        field = WRONG_TYPE.search(str(error))
        reason = brief(error)
        if field:
            reason = f"{field[1]}: expected {TYPES.get(field[2], field[2])}, got {field[3]}"
        raise ClipkitError(f"cannot {what}: {reason}", hint) from error
