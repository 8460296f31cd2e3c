"""Find the bundled prompt sets, templates, words for attributes, and groups.

A bundled file has the name of its path in the repository's folder ``prompts/`` without the ending:
``generic32``, ``templates/small-images``, ``attributes/shapes``, ``groups/shapes-outlines``.
"""

from __future__ import annotations

import os
from pathlib import Path

from clipkit.base.errors import ClipkitError
from clipkit.base.files import STREAM

PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "prompt_sets", PACKAGE.parent / "prompts")  # of a wheel, and of a checkout
ENDINGS = (".txt", ".tsv")


def list_files(kind: str = "") -> dict[str, Path]:
    """Return the bundled files by their names.

    The kinds are ``templates``, ``attributes`` and ``groups``, and without a name the prompt sets.

    >>> sorted(list_files("templates"))
    ['openai-cifar', 'openai-imagenet', 'small-images', 'thesis']
    """
    for folder in FOLDERS:
        if folder.is_dir():
            paths = sorted((folder / kind).iterdir())
            return {path.stem: path for path in paths if path.suffix in ENDINGS}
    return {}


def locate(source: str, kind: str = "") -> str:
    """Return the path of the bundled file that a source names, or else the source.

    A local file of that name wins. The folder of a kind and, with it, the ending may be given:
    ``small-images``, ``templates/small-images`` and ``templates/small-images.txt`` name one file.

    Raises
    ------
    ClipkitError
        If the source is the path that a bundled file has elsewhere, as ``prompts/generic32.txt``
        in the repository. The hint is the bundled file's name.
    """
    if source == STREAM or os.path.lexists(source):
        return source
    name = source.rpartition("/")[2]
    path = list_files(kind).get(Path(name).stem)
    if path is None or "://" in source:
        return source
    called = f"{kind}/{path.stem}" if kind else path.stem
    if source in (path.stem, called) or (kind and source == called + path.suffix):
        return str(path)
    if name != path.name:
        return source
    raise ClipkitError(
        f"cannot read {source}: there is no such file", f"the bundled file is called {called}"
    )
