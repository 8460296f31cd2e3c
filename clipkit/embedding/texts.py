"""Embed prompts and class names; read class names from data sets, feature files and text files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkit import console, features, files, prompts, similarity
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile, Float32
from clipkit.features.checked_file import SIGNATURE
from clipkit.prompts import Prompts

if TYPE_CHECKING:
    from clipkit.models import Encoder

DEFAULT_TEMPLATE = "a photo of a {}"
SHOWN_CHARACTERS = 200  # of a text in a message


@dataclass(frozen=True)
class ClassNames:
    """Class names and what prompts call the classes.

    Attributes
    ----------
    names : list of C str
    wordings : list of C str
        What a prompt says for each class; the names, unless a text file gives other wordings.
    source : dict
        Where the names come from, as the history records it.
    """

    names: list[str]
    wordings: list[str] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.wordings:
            self.wordings.extend(self.names)


def embed_texts(
    texts: Prompts | str | Sequence[str],
    encoder: Encoder,
    *,
    normalize: bool = False,
    truncate: bool = False,
) -> FeatureFile:
    """Embed prompts: what `clipkit textembed PROMPTS` runs.

    Parameters
    ----------
    texts : Prompts, str or sequence of K str
        An error about a prompt of a prompt file names its line. One str is one prompt.
    encoder : Encoder
        A text tower.
    normalize : bool
        Scale each embedding to length 1.
    truncate : bool
        Cut prompts that are too long for the model.

    Returns
    -------
    FeatureFile
        Of kind texts: features (K, D).

    Raises
    ------
    ClipkitError
        If a prompt is too long and `truncate` is not given.
    """
    if isinstance(texts, Prompts):
        places = [f"{texts.name}, line {line}" for line in texts.lines]
        texts = texts.texts
    else:
        texts = [texts] if isinstance(texts, str) else list(texts)
        places = [repr(text[:SHOWN_CHARACTERS]) for text in texts]
    embeddings = _encode(texts, places, encoder, truncate)
    if normalize:
        embeddings = similarity.normalize(embeddings)
    entry = features.history_entry(
        "textembed", model=encoder.details, normalize=normalize, truncate=truncate
    )
    return FeatureFile(
        "texts",
        [entry],
        features=embeddings,
        texts=texts,
        class_index=np.full(len(texts), -1),
    )


def embed_classes(
    classes: ClassNames,
    encoder: Encoder,
    *,
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    readable: bool = False,
    normalize: bool = False,
    truncate: bool = False,
) -> FeatureFile:
    """Embed one prompt for each class: what `clipkit textembed --classes` runs.

    Several templates make an ensemble: each class's embeddings are normalised, averaged and
    normalised again.

    Parameters
    ----------
    encoder : Encoder
        A text tower.
    templates : sequence of T str
        Each holds ``{}`` or ``{c}`` in place of the class.
    readable : bool
        Turn underscores in the wordings into spaces.
    normalize, truncate : bool
        See `embed_texts`.

    Returns
    -------
    FeatureFile
        Of kind texts: features (C, D).

    Raises
    ------
    ClipkitError
        If a prompt is too long and `truncate` is not given.
    UsageError
        If a template has no placeholder.
    """
    wordings = classes.wordings
    if readable:
        wordings = [prompts.readable(wording) for wording in wordings]
    texts, class_index = prompts.from_classes(wordings, templates)
    embeddings = _encode(
        texts, [repr(text[:SHOWN_CHARACTERS]) for text in texts], encoder, truncate
    )  # (C * T, D)
    if len(templates) > 1:
        embeddings = similarity.ensemble(embeddings, class_index, len(classes.names))  # (C, D)
        texts = [f"{wording} ({len(templates)} templates)" for wording in classes.wordings]
        class_index = np.arange(len(texts))
    elif normalize:
        embeddings = similarity.normalize(embeddings)
    entry = features.history_entry(
        "textembed",
        model=encoder.details,
        normalize=normalize,
        truncate=truncate,
        templates=list(templates),
        readable=readable,
        **classes.source,
    )
    return FeatureFile(
        "texts",
        [entry],
        features=embeddings,
        texts=texts,
        class_index=class_index,
        class_names=classes.names,
    )


def _encode(texts: Sequence[str], places: list[str], encoder: Encoder, truncate: bool) -> Float32:
    with console.progress("embedding prompts", "prompts") as progress:
        return encoder.encode_texts(texts, truncate=truncate, places=places, progress=progress)


def read_prompts(source: str) -> Prompts:
    """Read a prompt file (``-`` is standard input) and warn about blank and repeated lines."""
    file = prompts.parse(files.read_bytes(source), files.display_name(source))
    for warning in file.warnings():
        console.warn(warning)
    return file


def read_templates(values: Sequence[str]) -> list[str]:
    """Return templates, with each name of a template file replaced by the file's templates."""
    templates: list[str] = []
    for value in values:
        if "{" not in value and Path(value).is_file():
            templates += prompts.parse_templates(files.read_bytes(value), value).texts
        else:
            templates.append(value)
    return templates


def read_class_names(source: str, root: str | None = None) -> ClassNames:
    """Read class names from a feature file, a text file or a data set.

    Parameters
    ----------
    source : str
        A feature file, a text file (in each line a name, or a name, a tab and a wording), or a
        data set: its name, folder or manifest.
    root : str, optional
        The folder that holds a named data set.

    Raises
    ------
    ClipkitError
        If the source has no class names.
    UsageError
        If there is no such file or data set.

    Warns
    -----
    On standard error: if two classes have one wording, so that no prompt tells them apart.
    """
    classes = _read_class_names(source, root)
    wording, count = Counter(classes.wordings).most_common(1)[0]
    if count > 1:
        console.warn(
            f"{source}: {count} classes are called {wording!r}: their prompts are the same; give "
            "them other wordings in a text file (name, tab, wording)"
        )
    return classes


def _read_class_names(source: str, root: str | None) -> ClassNames:
    from clipkit import datasets

    path = Path(source)
    if not path.is_file() or datasets.names_images(source):
        names = datasets.load(source, root=root).class_names
        if not names:
            raise ClipkitError(f"{source}: expected class names, but its images are not labelled")
        return ClassNames(names, source={"classes": source})
    with path.open("rb") as stream:
        is_feature_file = stream.read(len(SIGNATURE)) == SIGNATURE
    if not is_feature_file:
        return _parse_class_names(source)
    with features.open_file(source) as file:
        if not file.class_names:
            raise ClipkitError(f"{source}: expected class names, got none")
        inputs = {"classes": file.digest}
        return ClassNames(file.class_names, source={"classes": "feature file", "inputs": inputs})


def _parse_class_names(source: str) -> ClassNames:
    """Read class names, and wordings after a tab, from a text file."""
    names: list[str] = []
    wordings: list[str] = []
    for line in read_prompts(source).texts:
        name, _, wording = line.partition("\t")
        names.append(name.strip())
        wordings.append(wording.strip() or name.strip())
    return ClassNames(names, wordings, {"classes": "file"})
