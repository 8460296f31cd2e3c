"""Import the libraries that models need, and turn whatever they raise into one line."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import resource
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipkit.base.errors import ClipkitError, UsageError, brief

# library -> the extra that installs it
EXTRAS = {
    **{"open_clip": "openclip", "timm": "timm", "accelerate": "accelerate"},
    "num2words": "smolvlm",
}
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")  # of PyTorch's RuntimeErrors

NO_CODE = "it brings its own code (auto_map), which clipkit never runs"
_descriptor = threading.RLock()  # held while file descriptor 2 leads nowhere

# What the Hub's library says of a setting, in some lines
WRONG_TYPE = re.compile(r"Field '(\w+)' expected (\w+), got \w+ \(value: ([^\n]{1,60}?)\)")
TYPES = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}


@contextlib.contextmanager
def quiet_loading(what: str) -> Iterator[None]:
    """Silence transformers, and turn whatever it raises into `cannot load WHAT: REASON`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, in a plain notebook
        import transformers  # takes longer than PyTorch; CLIP's towers do not import it

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
        if "trust_remote_code" in str(error):
            reason = NO_CODE
        elif field:
            reason = f"{field[1]}: expected {TYPES.get(field[2], field[2])}, got {field[3]}"
        if isinstance(error, ImportError):
            hint = _install_hint(str(error)) or hint
        raise ClipkitError(f"cannot {what}: {reason}", hint) from error


def _install_hint(message: str) -> str | None:
    """Return how to install what an ImportError misses, if an extra has it."""
    for library, extra in EXTRAS.items():
        if re.search(rf"\b{library}\b", message):
            return f"install it: pip install 'clipkit-vl[{extra}]'"
    return None


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Put the name of the model before a refusal that lacks it.

    `NAME: ...` has it, and so have `cannot load NAME: ...` and `cannot load NAME (line 3): ...`.
    """
    try:
        yield
    except ClipkitError as error:
        if re.match(rf"(cannot [^:]*)?{re.escape(name)}(: | \(line )", error.message):
            raise
        raise type(error)(f"{name}: {error.message}", error.hint) from error


@contextlib.contextmanager
def rust_panics() -> Iterator[None]:
    """Turn a panic of tokenizers into a ValueError, and suppress its traceback.

    A regex of tokenizer.json that backtracks too often panics. The exception is no `Exception`, and
    Rust writes a long traceback to file descriptor 2, which leads nowhere within the block.
    """
    with _descriptor, open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"tokenizers failed: {error}") from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def memory_limit(what: str, most: int, hint: str | None = None) -> Iterator[None]:
    """Turn a step that takes more than so many bytes of new memory into `cannot WHAT: REASON`.

    The limit holds for all threads, so the step should be short and start none.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    space = _address_space() + most
    if before[0] != resource.RLIM_INFINITY:
        space = min(space, before[0])
    is_limited = False
    with contextlib.suppress(ValueError, OSError):  # not supported
        resource.setrlimit(resource.RLIMIT_AS, (space, before[1]))
        is_limited = True
    try:
        yield
    except MemoryError as error:
        limit = f"expected a step of at most {most >> 20} MiB, got one that takes more"
        raise ClipkitError(f"cannot {what}: {limit}", hint) from error
    finally:
        if is_limited:
            resource.setrlimit(resource.RLIMIT_AS, before)


def _address_space() -> int:
    """Return the bytes of this process's address space, where the system says it."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return 2**40
    return int(statistics.read_text().split()[0]) * resource.getpagesize()


def check_installed(name: str, library: str) -> None:
    """Say how to install the library of a model, unless it is there."""
    if importlib.util.find_spec(library) is None:
        raise ClipkitError(
            f"{name}: expected the package {library}, which its model needs, got none",
            _install_hint(library),
        )


def is_installed(package: str) -> bool:
    """Return whether a package is installed, without importing it."""
    return any(importlib.metadata.distributions(name=package))


@contextlib.contextmanager
def newer_transformers(saved_by: object) -> Iterator[None]:
    """Add to an error that a newer version of transformers has saved the model, if that is so.

    `saved_by` is what config.json says.
    """
    try:
        yield
    except UsageError:
        raise
    except ClipkitError as error:
        installed = importlib.metadata.version("transformers")
        if not isinstance(saved_by, str) or _numbers(saved_by) <= _numbers(installed):
            raise
        raise error.adding_hint(
            f"transformers {saved_by} saved it and {installed} is installed: "
            "pip install --upgrade transformers"
        ) from error


def _numbers(version: str) -> list[int]:
    """Return the first numbers of a version.

    >>> _numbers("5.24.0.dev0") > _numbers("5.6")
    True
    """
    return [int(number) for number in re.findall(r"\d{1,9}", version)[:3]]


def library_version(library: str) -> str:
    """Return a library's name and version, as a history records them."""
    if library == "transformers":  # CLIP's towers do not import it
        return f"{library} {importlib.metadata.version(library)}"
    module = importlib.import_module(library)
    return f"{library} {module.__version__}"
