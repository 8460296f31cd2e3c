"""Digest what decides the embeddings of one's own encoder: its code, files and numbers."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import itertools
import os
import site
import sys
import sysconfig
import threading
import types
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipkit.base.errors import ClipkitError
from clipkit.base.files import expand_user
from clipkit.models.hub import combine_digests

MOST_OBJECTS = 200_000  # that are searched for numbers
LONGEST_NAME = 1_000  # of an object, in characters: it says the way to the object
SYSTEM = ("/dev", "/proc", "/sys", "/etc", "/usr")
PRIVATE = {"token", "stored_tokens", ".netrc"}  # they let code in, and decide no embedding
NOT_DATA = (".py", ".pyc", ".lock")  # whether Python opens a module depends on its cache
OWN_MODULE = "clipkit_own_"  # how `user_code.load` calls the modules that it makes
MAIN = ("__main__", "__mp_main__")  # a script; multiprocessing calls it by both names
WEIGHTS = "weights"  # what the digest of an object's numbers is called
MACHINERY = {"__builtins__", "__loader__", "__spec__"}  # lead from a module to all of Python
SPARSE = {torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}
MODULE_PARTS = frozenset(vars(torch.nn.Module()))  # its numbers and modules are visited by name


def parts(own: Any, named: Any, file: Path | None, opened: Iterable[str]) -> dict[str, str]:
    """Return the digests of the code, of the files that it names and opens, and of its numbers.

    Without numbers there are no ``weights``.
    """
    found = {}
    code = _code_beside(file)
    for name, path in code.items():
        found[name] = _digest_file(path)
    known = {path.resolve() for path in code.values()}
    names = [named] if isinstance(named, str | os.PathLike) else list(named)
    for one in names:
        for name, path in _files_named(expand_user(one).resolve()):
            if path.resolve() not in known:
                known.add(path.resolve())
                found[_free_name(name, found)] = _digest_file(path)
    found |= _digest_opened(opened, known)
    weights = _digest_numbers(own, file, code)
    if weights is not None:
        found[WEIGHTS] = weights
    return found


def modules(own: Any) -> list[torch.nn.Module]:
    """Return the modules of PyTorch that an object is or has."""
    if isinstance(own, torch.nn.Module):
        return [own]
    values = getattr(own, "__dict__", {}).values()
    return [value for value in values if isinstance(value, torch.nn.Module)]


# ---- Code and files ------------------------------------------------------------------------------


def _code_beside(file: Path | None) -> dict[str, Path]:
    """Return the file, and each module that was imported from its folder, by relative names."""
    if file is None:
        return {}
    found = {file.name: file}
    folder = file.resolve().parent
    for name, module in sorted(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if not isinstance(source, str) or name in MAIN or name.startswith(OWN_MODULE):
            continue
        path = Path(source).resolve()
        if path.is_relative_to(folder) and path.is_file() and not _is_installed(str(path)):
            found[str(path.relative_to(folder))] = path
    return found


@functools.cache
def _installed() -> tuple[str, ...]:
    """Return the folders of Python and of the installed packages."""
    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), sys.prefix}
    package = Path(__file__).resolve().parents[1]
    folders |= {sys.base_prefix, site.getusersitepackages(), str(package)}
    resolved = {os.path.realpath(folder) for folder in folders}
    return (*sorted(resolved), *SYSTEM)


def _is_installed(path: str) -> bool:
    return path.startswith(tuple(f"{folder}/" for folder in _installed()))


def _files_named(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield a file, or each file of a folder, with its name."""
    is_stream = path.exists() and not path.is_file() and not path.is_dir()
    if is_stream or path.is_relative_to("/proc"):  # some of its files wait
        raise ClipkitError(f"files: expected a file or a folder, got {path}, which is a stream")
    inside = filter(Path.is_file, sorted(path.rglob("*"))) if path.is_dir() else [path]
    for one in inside:
        yield str(one.relative_to(path.parent)), one


def _free_name(name: str, taken: Container[str]) -> str:
    """Return a name that no other file has, and not the numbers of the object.

    >>> _free_name("m.bin", {"m.bin", "m.bin (2)"})
    'm.bin (3)'
    """
    names = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
    return next(one for one in names if one not in taken and one != WEIGHTS)


def _digest_opened(opened: Iterable[str], known: set[Path]) -> dict[str, str]:
    """Return the digests of files that were opened, by their names.

    The folders may have other names on another machine, so files of one name share a digest.
    """
    by_name: dict[str, list[str]] = {}
    for name in sorted(opened):
        path = Path(name)
        is_private = path.name in PRIVATE or path.suffix in NOT_DATA
        if _is_installed(name) or is_private or path in known or not path.is_file():
            continue
        by_name.setdefault(f"opened {path.name}", []).append(_digest_file(path))
    joined = {}
    for name, digests in by_name.items():
        numbered = {str(number): digest for number, digest in enumerate(sorted(digests))}
        joined[name] = digests[0] if len(digests) == 1 else combine_digests(numbered)
    return joined


def _digest_file(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError as error:
        raise ClipkitError(f"files: cannot read {path}: {error.strerror}") from None


class Recorder:
    """Records which files Python code opens to read, and not to write, in a `with` block."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.written: set[str] = set()

    def __enter__(self) -> Recorder:
        _install_hook()
        with _lock:
            _recorders.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            _recorders.remove(self)

    @property
    def opened(self) -> set[str]:
        """The files that were read, and not written."""
        return self.read - self.written

    def note(self, path: Any, mode: Any, flags: Any) -> None:
        """Note that a file is being opened."""
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor
        name = os.path.realpath(os.fsdecode(path))
        changes = set("wax+").intersection(mode or "")
        is_written = changes or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))
        (self.written if is_written else self.read).add(name)


_lock = threading.Lock()
_recorders: list[Recorder] = []


@functools.cache
def _install_hook() -> None:
    """Let Python tell what it opens: a hook stays, so there is one."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _recorders:
            for recorder in list(_recorders):
                recorder.note(*arguments)

    sys.addaudithook(hear)


# ---- Numbers -------------------------------------------------------------------------------------


def _digest_numbers(own: Any, file: Path | None, code: Mapping[str, Path]) -> str | None:
    """Return the digest of all tensors and arrays of an encoder and of its code's globals."""
    if file is None:
        search = _Search(set())
        search.visit("", own)
        return search.digest()
    search = _Search({str(path.resolve()) for path in code.values()})
    search.visit("", own)
    for name in dict.fromkeys((f"{OWN_MODULE}{file.stem}", type(own).__module__)):
        search.visit("", sys.modules.get(name))
    return search.digest()


class _Search:
    """Digests the tensors and arrays that an object holds, and the objects in it.

    `code` are the files whose classes may hold some, too.
    """

    def __init__(self, code: set[str]) -> None:
        self.code = code
        self.sha = hashlib.sha256()
        self.count = 0
        self.seen: dict[int, Any] = {}  # keeps them alive, so that no number is used twice

    def digest(self) -> str | None:
        """Return the digest of all that was found, if anything was."""
        return f"sha256:{self.sha.hexdigest()}" if self.count else None

    def visit(self, name: str, value: Any) -> None:
        """Visit a value and what it holds, each object once."""
        waiting = [(name, value)]
        while waiting and len(self.seen) < MOST_OBJECTS:
            name, value = waiting.pop()
            if not self._is_new(value):
                continue
            self.seen[id(value)] = value
            if len(name) > LONGEST_NAME:
                name = hashlib.sha256(name.encode(errors="replace")).hexdigest()
            if isinstance(value, torch.Tensor):
                self._add_tensor(name, value)
            elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
                self._add_array(name, value)
            else:
                inside = (part for part in self._inside(name, value) if self._is_new(part[1]))
                waiting += reversed(list(itertools.islice(inside, MOST_OBJECTS)))

    def _is_new(self, value: Any) -> bool:
        """Return whether a value may hold numbers that were not visited yet."""
        is_plain = value is None or isinstance(value, str | bytes | int | float | complex)
        return not is_plain and id(value) not in self.seen

    def _inside(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield what an object holds."""
        if isinstance(value, threading.Thread):
            return
        if isinstance(value, types.ModuleType):
            if self._is_own(value):
                names = {key: one for key, one in vars(value).items() if key not in MACHINERY}
                yield from _entries(name, names)
            return
        if isinstance(value, type):
            module = sys.modules.get(value.__module__)
            if self._is_own(module):
                yield from _entries(name, vars(value))
                yield name, module
            return
        if isinstance(value, dict | types.MappingProxyType):
            yield from _entries(name, value)
        elif isinstance(value, list | tuple | collections.deque):
            for number, part in enumerate(value):
                yield f"{name}.{number}", part
        elif isinstance(value, np.ndarray):  # of objects
            for number, part in enumerate(value.flat):
                yield f"{name}.{number}", part
        elif isinstance(value, functools.partial):
            yield from ((name, value.func), (name, value.args), (name, value.keywords))
        elif isinstance(value, types.MethodType):
            yield name, value.__self__
            yield name, value.__func__
        elif isinstance(value, staticmethod | classmethod):
            yield name, value.__func__
        elif isinstance(value, property):
            yield name, value.fget
        elif isinstance(value, types.FunctionType):
            yield name, value.__defaults__
            yield name, value.__kwdefaults__
            for number, cell in enumerate(value.__closure__ or ()):
                with contextlib.suppress(ValueError):  # it is empty
                    yield f"{name}.{number}", cell.cell_contents
            yield name, sys.modules.get(value.__module__)  # it uses its globals
        yield from self._of_object(name, value)

    def _of_object(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield an object's attributes, and its classes."""
        if isinstance(value, torch.nn.Module):
            numbers = dict(value.state_dict())  # has the packed weights of quantised modules,
            numbers |= value.named_parameters()  # but code may leave some out,
            numbers |= value.named_buffers()  # and it lacks buffers that are not saved
            yield from _entries(name, numbers)
            for inner, module in value.named_modules():
                rest = {k: v for k, v in vars(module).items() if k not in MODULE_PARTS}
                yield from _entries(f"{name}.{inner}", rest)
        else:
            yield from _entries(name, getattr(value, "__dict__", {}))
        for kind in type(value).__mro__:
            for slot in vars(kind).get("__slots__", ()):
                yield f"{name}.{slot}", getattr(value, slot, None)
            yield f"{name}.{kind.__name__}", kind

    def _is_own(self, module: Any) -> bool:
        source = getattr(module, "__file__", None)
        return isinstance(source, str) and os.path.realpath(source) in self.code

    def _add_tensor(self, name: str, value: torch.Tensor) -> None:
        for tensor in _plain_tensors(value):
            if tensor.is_meta:
                continue
            dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
            flat = dense.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            self._add(name, tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().data)

    def _add_array(self, name: str, value: np.ndarray[Any, Any]) -> None:
        self._add(name, value.dtype, value.shape, np.ascontiguousarray(value).tobytes())

    def _add(self, name: str, kind: object, shape: tuple[int, ...], data: Any) -> None:
        self.sha.update(f"\0{name}\0{kind}\0{shape}\0".encode())
        self.sha.update(data)
        self.count += 1


def _entries(name: str, values: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values of a mapping with their names, in the order of the names."""
    for key, value in sorted(dict(values).items(), key=lambda item: str(item[0])):
        yield f"{name}.{key}", value


def _plain_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of plain numbers that a tensor is made of, if it is quantised or sparse."""
    if isinstance(value, tuple):  # of a module of torch.ao
        for part in value:
            yield from _plain_tensors(part)
    elif hasattr(value, "__tensor_flatten__"):  # a tensor of torchao, by PyTorch's protocol
        for name in value.__tensor_flatten__()[0]:
            yield from _plain_tensors(getattr(value, name))
    elif isinstance(value, torch.Tensor) and value.is_nested:
        yield from value.unbind()
    elif isinstance(value, torch.Tensor) and value.layout in SPARSE:
        entries = value.detach().to_sparse().coalesce()  # dense, it may be larger than the memory
        yield from (torch.tensor(value.shape), entries.indices(), entries.values())
    elif isinstance(value, torch.Tensor):
        yield value.int_repr() if value.is_quantized else value
