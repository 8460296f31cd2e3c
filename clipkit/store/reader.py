"""Reading a feature file: everything small at once and checked, features a block of rows at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from clipkit.errors import ClipkitError
from clipkit.files import spooled
from clipkit.store.ahead import ahead
from clipkit.store.gate import Gate
from clipkit.store.schema import (
    FeatureFile,
    Float32,
    Rows,
    Split,
    block_rows,
    check,
    entry,
    file_digest,
    not_finite,
    refuse_rows,
)

CRASHES = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGXCPU,
}
REHEARSAL = (
    10,
    2**27,
)  # seconds of processor time that a child may take, and bytes for each of which it may one more
PATIENCE = 60  # seconds after which it gives up whatever it waits for
MAKERS = {
    "images": "embed",
    "texts": "textembed",
    "logits": "logits",
    "result": "entropy, probe, zeroshot or cluster with -o",
}


def read(source: str | Path, *, kinds: Iterable[str] = (), trusted: bool = False) -> FeatureFile:
    """Read a whole feature file into memory, features as arrays; see `opened` for parameters and errors."""
    with opened(source, kinds=kinds, trusted=trusted) as file:
        if file.features is not None:
            file.features = file.features.read()
        for split in file.splits.values():
            split.features = None if split.features is None else split.features.read()
        return file


@contextlib.contextmanager
def opened(
    source: str | Path, *, kinds: Iterable[str] = (), trusted: bool = False
) -> Iterator[FeatureFile]:
    """Open a feature file; features come as `Rows`, everything else as arrays and lists.

    Parameters
    ----------
    source : str or Path
        A path, or ``-`` for standard input.
    kinds : iterable of str
        The kinds that will do; all, if empty.
    trusted : bool
        The caller wrote the file itself. It is checked as any other, but not first in a child process.

    Raises
    ------
    ClipkitError
        If the file is not a whole, sound feature file of one of the kinds; the message says what is wrong where. That
        the features match their digest is known when their last block is read.
    """
    shown = "standard input" if str(source) == "-" else str(source)
    kinds = list(kinds)
    with spooled(str(source)) as path:
        if not trusted:
            _rehearse(path, shown)
        with Gate(path, shown) as gate:
            yield _checked(gate, kinds)


def _rehearse(path: Path, shown: str) -> None:
    """Read in a child process first: a file that was made for it can crash HDF5 itself, not only raise an error.

    Only that counts here, and that HDF5 comes to an end (it may close a damaged file forever). All else is found again,
    and told, by this process.
    """
    if sys.platform != "linux":  # elsewhere a child that goes on without exec is not safe
        return
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forking beside threads: the child uses none of them
        child = os.fork()
    if not child:
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            seconds = REHEARSAL[0] + path.stat().st_size // REHEARSAL[1]
            resource.setrlimit(
                resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1])
            )
            signal.alarm(PATIENCE)
            with Gate(path, shown) as gate:
                for name, value in _assemble(gate).datasets().items():
                    if isinstance(value, Rows):
                        gate.h5[name].id.get_num_chunks()
                        gate.read(gate.h5[name], name, slice(-1, None))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in CRASHES:
        name = signal.Signals(os.WTERMSIG(status)).name
        does = "keeps HDF5 busy without end" if name == "SIGXCPU" else f"makes HDF5 crash ({name})"
        raise ClipkitError(
            f"{shown}: the file must be sound HDF5; it {does}", "do not open it elsewhere"
        )


def _checked(gate: Gate, kinds: list[str]) -> FeatureFile:
    file = _assemble(gate)
    if kinds and file.kind not in kinds:
        hint = f"make one with: clipkit {MAKERS[kinds[0]]}"
        raise ClipkitError(
            f"{gate.shown} must hold {' or '.join(kinds)}; it holds {file.kind}", hint
        )
    return file


def _assemble(gate: Gate) -> FeatureFile:
    attributes = gate.attributes()
    entries: dict[str, dict[str, Any]] = {}
    file = FeatureFile(attributes["kind"], gate.history(attributes["history"]))
    file.temperature, file.logit_scale = (
        attributes.get("temperature"),
        attributes.get("logit_scale"),
    )
    for name in gate.names(file.kind):
        dataset = gate.dataset(name)
        sha256 = gate.attribute(dataset, "sha256")
        entries[name] = entry(dataset.dtype, dataset.shape, sha256)
        _place(file, name, _value(gate, dataset, name, sha256))
    file.digest = gate.attribute(gate.h5, "digest")
    if file_digest(attributes, entries) != file.digest:
        raise gate.error(
            "the metadata must match the digest; it was changed after the file was written"
        )
    check(file, gate.shown)
    return file


def _value(gate: Gate, dataset: h5py.Dataset, name: str, sha256: str) -> Any:
    if name.rpartition("/")[2] == "features" and not name.startswith("runs/"):
        return Rows(dataset.shape, lambda: ahead(_blocks(gate, dataset, name, sha256)))
    array = gate.read(dataset, name)
    if hashlib.sha256(array.tobytes()).hexdigest() != sha256:
        raise _changed(gate, name)
    return gate.texts(array, name) if array.dtype.kind == "S" else array


def _place(file: FeatureFile, name: str, value: Any) -> None:
    group, _, key = name.rpartition("/")
    if group == "runs":
        file.runs[key] = np.asarray(value)
    elif group:
        setattr(file.splits.setdefault(group, Split()), key, value)
    else:
        setattr(file, key, value)


def _blocks(gate: Gate, dataset: h5py.Dataset, name: str, sha256: str) -> Iterator[Float32]:
    sha, (n, width) = hashlib.sha256(), dataset.shape
    step = block_rows(width)
    bad: list[int] = []
    for at in range(0, n, step):
        block = gate.read(dataset, name, slice(at, at + step))
        sha.update(block.data)
        bad += [at + row for row in not_finite(block)]
        if at + step >= n and sha.hexdigest() != sha256:
            raise _changed(gate, name)
        if at + step >= n and bad:
            raise refuse_rows(f"{gate.shown}: {name}", bad)
        if not bad:  # after a bad row the rest is only counted
            yield block


def _changed(gate: Gate, name: str) -> ClipkitError:
    return gate.error(
        f"{name} must match its SHA-256; it was changed after it was written", "make the file again"
    )
