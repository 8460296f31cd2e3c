"""Cache the index of remote tars, so that a later run does not read their headers again.

The folder ``clipkit/tars`` in the user's cache holds a file for each tar, named by the digest of
the tar's URL, size and ETag. What was not used for KEPT_DAYS is removed. The folder may be removed
at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import time
import urllib.parse
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from clipkit import console
from clipkit.datasets.images import readable_suffixes
from clipkit.datasets.labels import NO_LABEL, LabelCodes
from clipkit.datasets.remote import StoredFile, display_url
from clipkit.datasets.tar_scan import SPARSE_FILE, Scan, scan_headers
from clipkit.errors import ClipkitError
from clipkit.files import atomic_write, user_cache

VERSION = 1  # of the files
KEPT_DAYS = 90
SIGNATURES = {"x-amz-signature", "x-goog-signature", "signature", "sig"}  # of presigned URLs


def cached_scan(file: StoredFile) -> Scan:
    """Return what the headers of a tar say: from the cache, or else by reading them.

    Tars on this machine are not cached, nor is a remote one without an ETag.
    """
    path = _path(file)
    if path is None:
        return scan_headers(file)
    try:
        scan = _load(path, file.size)
        with contextlib.suppress(OSError):  # the cache of another user
            os.utime(path)  # it was used
        return scan
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception:  # zipfile, zlib, NumPy and json have no common error
        name = display_url(file.name)
        console.note(f"{name}: the index in {path} is damaged, so the headers are read again")
    scan = scan_headers(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(path, scan)
        _remove_old(path.parent)
    except (ClipkitError, OSError) as error:
        console.detail(f"the headers of {display_url(file.name)} are not kept: {error}")
    return scan


def _path(file: StoredFile) -> Path | None:
    """Return the file of the cache for a tar, or None if its bytes may change unnoticed."""
    if not file.etag:
        return None
    # the endings of images say which member of a key is the image
    key = [VERSION, _lasting_url(file.name), file.size, file.etag, readable_suffixes()]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    try:
        return user_cache() / "clipkit" / "tars" / f"{digest}.npz"
    except RuntimeError:  # a user without a home, as in some containers
        return None


def _lasting_url(url: str) -> str:
    """Return a URL without its query if that is a signature, which is another one each time.

    Another query may name the file.

    >>> _lasting_url("https://host/a.tar?Expires=1&Signature=2"), _lasting_url("https://host/?a=1")
    ('https://host/a.tar', 'https://host/?a=1')
    """
    start, _, query = url.partition("?")
    names = {name.lower() for name, _ in urllib.parse.parse_qsl(query)}
    return start if names & SIGNATURES else url


@functools.cache  # once per process: each tar that is read calls it
def _remove_old(folder: Path) -> None:
    last = time.time() - KEPT_DAYS * 24 * 3600
    for path in folder.glob("*.npz"):
        with contextlib.suppress(OSError):  # another process was faster
            if path.stat().st_mtime < last:
                path.unlink()


def _save(path: Path, scan: Scan) -> None:
    details = {"texts": list(scan.texts), "repeated": scan.repeated, "example": scan.example}
    with atomic_write(str(path), force=True) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            keys=_as_bytes("\n".join(scan.keys)),  # a key has no line end
            offsets=np.frombuffer(scan.offsets, np.int64),
            sizes=np.frombuffer(scan.sizes, np.int64),
            codes=np.frombuffer(scan.codes, np.int32),
            details=_as_bytes(json.dumps(details)),
        )


def _as_bytes(text: str) -> Any:
    return np.frombuffer(text.encode(), np.uint8)


def _load(path: Path, total: int) -> Scan:
    """Read a file of the cache. The checksums of its zip find damage; a `ValueError` is raised."""
    with path.open("rb") as stream, np.load(stream) as content:
        keys = content["keys"].tobytes().decode()
        details = json.loads(content["details"].tobytes())
        offsets, sizes, codes = content["offsets"], content["sizes"], content["codes"]
    texts = LabelCodes(zip(details["texts"], itertools.count()))
    scan = Scan(
        keys.split("\n") if keys else [],
        array("q", offsets.tobytes()),
        array("q", sizes.tobytes()),
        array("i", codes.tobytes()),
        texts,
        details["repeated"],
        details["example"],
    )
    is_valid = len(scan.keys) == len(scan.offsets) == len(scan.sizes) == len(scan.codes)
    if is_valid and scan.keys:
        is_valid = offsets.min() > 0 and (offsets + np.maximum(sizes, 0)).max() <= total
        is_valid &= sizes.min() >= SPARSE_FILE
        is_valid &= codes.min() >= NO_LABEL and codes.max() < len(texts)
    if not is_valid:
        raise ValueError
    return scan
