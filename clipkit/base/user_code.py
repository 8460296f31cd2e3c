"""Guard what a user's own Python code prints and raises.

It runs only because the user names its file. Meanwhile what it prints goes to standard error, also
from threads, child processes and C libraries, since standard output may be a feature file; and
whatever it raises becomes one line that names its file and line.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from clipkit.base import console, files
from clipkit.base.errors import ClipkitError, brief, shorten
from clipkit.base.signals import Interrupted

HINT = "clipkit --debug shows where"


def load(file: Path) -> ModuleType:
    """Run a Python file, which sees the modules of its folder, and return its module.

    Raises
    ------
    ClipkitError
        If there is no such file, or it raises something.
    """
    if not file.is_file():
        raise files.missing(str(file))
    name = f"clipkit_own_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ClipkitError(f"cannot run {file}: expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with guard(f"run {file}", file):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def guard(what: str, file: Path | None) -> Iterator[None]:
    """Run code, of a file if any: what it prints are messages, and what it raises is one line.

    Errors and memory that clipkit itself complains of pass, and so do signals: commands make those
    `Interrupted`, and Python's own handler makes Ctrl-C a `KeyboardInterrupt`.
    """
    try:
        with _printing_to_stderr:
            yield
    except (ClipkitError, MemoryError, Interrupted):
        raise
    except BaseException as error:  # SystemExit and GeneratorExit, too
        by_python = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if isinstance(error, KeyboardInterrupt) and by_python:
            raise
        raise ClipkitError(f"cannot {what}{_place(error, file)}: {_reason(error)}", HINT) from error


def _reason(error: BaseException) -> str:
    """Return the type and the message of an error, or its type if its message fails."""
    kind = type(error).__name__
    try:
        if isinstance(error, SystemExit):
            return shorten(f"it called sys.exit({error.code})")
        reason = brief(error)
    except BaseException:  # `__str__` is the user's code, too
        return kind
    return reason if reason.startswith(kind) else f"{kind}: {reason}"


def _place(error: BaseException, file: Path | None) -> str:
    """Return the last line of a file that an error went through, as ` (line 12)`."""
    if file is None:
        return ""
    name = str(file.resolve())
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f" (line {error.lineno})"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.realpath(frame.filename) == name
    ]
    return f" (line {lines[-1]})" if lines else ""


class _Unclosable:
    """A stream that code writes to, but does not close."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Flush the stream, which others write to."""
        self._stream.flush()


class _Redirection:
    """Descriptor 1 as standard error, while any thread runs code under the guard.

    Code may close or replace Python's streams, and its hooks for errors: afterwards they are as
    they were.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.restore = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self._redirect()
            self.users += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(Exception):  # code may have put any object there
                        stream.flush()
                self.restore.close()

    def _redirect(self) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        messages: Any = _Unclosable(sys.stderr)
        self.restore.enter_context(contextlib.redirect_stdout(messages))
        self.restore.enter_context(contextlib.redirect_stderr(messages))
        for module in (sys, threading):  # without a hook, no thread can be made
            self.restore.callback(setattr, module, "excepthook", module.excepthook)
        if console.has_reserved_stdout():
            return
        with contextlib.suppress(OSError):  # it is closed
            kept = os.dup(1)
            self.restore.callback(os.close, kept)
            self.restore.callback(os.dup2, kept, 1)
            os.dup2(2, 1)


_printing_to_stderr = _Redirection()


class Prints:
    """What code printed in a block of `collect_prints`, once the block has ended."""

    def __init__(self) -> None:
        self.text = ""


@contextlib.contextmanager
def collect_prints() -> Iterator[Prints]:
    """Collect what is printed on standard output in a block, also by C libraries and threads."""
    prints = Prints()
    with _printing_to_stderr, tempfile.TemporaryFile("w+", 1, errors="replace") as sink:
        try:
            with contextlib.redirect_stdout(sink):
                os.dup2(sink.fileno(), 1)
                yield prints
        finally:
            for stream in (sys.__stdout__, sink):
                if stream is not None:
                    with contextlib.suppress(OSError, ValueError):  # it is closed
                        stream.flush()
            os.dup2(2, 1)
            sink.seek(0)
            prints.text = sink.read()
