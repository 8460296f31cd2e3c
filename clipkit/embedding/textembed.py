"""Embed prompts and class names; read class names from data sets, feature files and text files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from clipkit import features, models
from clipkit.base import console, files, suggestions
from clipkit.base.errors import ClipkitError, UsageError, shorten, unknown
from clipkit.base.matrices import Floats, Int64, as_float32
from clipkit.base.names import abridged, escape
from clipkit.datasets.captions import Captions
from clipkit.datasets.items import Items
from clipkit.datasets.registry import REGISTRY
from clipkit.features import compatibility, similarity
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.history import DOT_PRODUCT
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance
from clipkit.features.validation import MAX_INTEGER
from clipkit.models.hub import canonical_name, is_python
from clipkit.models.options import RunOptions
from clipkit.prompts import bundled
from clipkit.prompts import formats as prompt_files
from clipkit.prompts import texts as prompts
from clipkit.prompts.formats import COMPLETE, ClassNames
from clipkit.prompts.texts import Prompts
from clipkit.statistics.claims import FEWEST_OTHERS

if TYPE_CHECKING:
    from clipkit.models import Encoder

ANSWER_WITH_LETTER = "Answer with the option's letter from the given choices directly."
NAME = "{name}"  # in the name of an output
ESCAPED_CONTROLS = re.compile("(%[01][0-9A-F]|%7F)+")  # in names of folders
BEGINS_WITH_ARTICLE = re.compile(r"(a|an|the|this|these) ", re.IGNORECASE)
DOUBLED_ARTICLE = re.compile(r"\b(an?|the) (?:an?|the) ", re.IGNORECASE)
IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG")
SHOWN_CHARACTERS = 200  # of a text in a message
NEUTRAL = "neutral"  # the bundled texts that control words


Texts: TypeAlias = "list[str] | Prompts | ClassNames | Captions | Items"


def embed_all(
    several: Sequence[Texts],
    model: str,
    options: RunOptions,
    *,
    follows_file: bool = False,
    templates: Sequence[str] | None = None,
    readable: bool = False,
    **how: bool,
) -> list[FeatureFile]:
    """Embed all texts that were read with one model, each into a file: what `textembed` runs.

    Parameters
    ----------
    follows_file : bool
        Class names of a feature file choose its model in place of `model`.
    templates : sequence of str, optional
        Of class names: see `read_templates`.
    readable, **how : bool
        See `embed_classes`: `normalize` and `truncate` are for all texts.
    """
    classes = [one for one in several if isinstance(one, ClassNames)]
    if classes:
        (names,) = classes
        templates = read_templates(templates or [], names.dataset) or None
        if follows_file:
            model, seed = choose_model(names.model, names.file, model, options.untrained)
            options = replace(options, untrained=seed)
        names, options = follow_question(names, model, options)
        several = [names]
    encoder = models.load(model, tower="text", options=options)
    results = []
    for one in several:
        if isinstance(one, ClassNames):
            result = embed_classes(one, encoder, templates=templates, readable=readable, **how)
        elif isinstance(one, Captions):
            result = embed_captions(one, encoder, **how)
        elif isinstance(one, Items):
            result = embed_items(one, encoder, **how)
        else:
            result = embed_texts(one, encoder, **how)
        results.append(result)
    return results


@checked
def embed_texts(
    texts: Prompts | Several[str],
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
        Cut prompts that are too long for the model, instead of refusing them.

    Returns
    -------
    FeatureFile
        Of kind texts: features (K, D).
    """
    label = None
    if isinstance(texts, Prompts):
        label, places = texts.label, texts.places()
        texts = texts.texts
    else:
        texts = as_list(texts, "texts", str)
        if not texts:
            raise UsageError("texts: expected at least one, got none")
        places = _quote(texts)
    embeddings = _encode(texts, places, encoder, truncate, normalize)
    # the digest of the prompts and their order does not depend on the format of their file
    data = features.canonical_json(texts).encode("utf-8", "surrogatepass")
    entry = features.history_entry(
        "textembed",
        model=encoder.details,
        normalize=normalize,
        truncate=truncate,
        prompts=label,
        cleaned=encoder.cleaned_by_ftfy(texts),
        inputs={"prompts": files.digest(data)},  # files of other prompts may have the same name
    )
    return FeatureFile(
        "texts",
        features.History([entry]),
        features=embeddings,
        texts=texts,
        class_index=np.full(len(texts), -1),
    )


@checked
def embed_queries(texts: Several[str], file: Features) -> FeatureFile:
    """Embed texts with the model of a feature file: what `clipkit nearest --query` runs.

    A note says which model that is. See `embed_texts` for the result.

    Raises
    ------
    ClipkitError
        If the file's history names no model.
    UsageError
        If that is one's own encoder, which a file cannot choose.
    """
    texts, file = as_list(texts, "texts", str), as_file(file, "file")
    name, seed = choose_model(file.model(), file.display_name, "", None)
    if not name:
        raise ClipkitError(
            f"{file.display_name}: expected the name of its model in the history, got none",
            compatibility.no_model_hint(file),
        )
    return embed_texts(texts, models.load(name, tower="text", untrained=seed))


def embed_captions(
    captions: Captions, encoder: Encoder, *, normalize: bool = False, truncate: bool = False
) -> FeatureFile:
    """Embed captions: what `clipkit textembed --captions` runs.

    The classes of the file are the ids of the images, in the order in which they first occur, so
    that `retrieve` knows which image a caption belongs to. See `embed_texts`.
    """
    number_of: dict[str, int] = {}
    for row_id in captions.ids:
        number_of.setdefault(row_id, len(number_of))
    places = [f"{captions.name}, {shorten(row_id, SHOWN_CHARACTERS)}" for row_id in captions.ids]
    embeddings = _encode(captions.texts, places, encoder, truncate, normalize)
    entry = features.history_entry(
        "textembed",
        model=encoder.details,
        normalize=normalize,
        truncate=truncate,
        captions=escape(Path(captions.name).name),
        cleaned=encoder.cleaned_by_ftfy(captions.texts),
        **captions.source,
    )
    return FeatureFile(
        "texts",
        features.History([entry]),
        features=embeddings,
        texts=captions.texts,
        class_index=np.array([number_of[row_id] for row_id in captions.ids]),
        class_names=list(number_of),
    )


def embed_items(
    items: Items, encoder: Encoder, *, normalize: bool = False, truncate: bool = False
) -> FeatureFile:
    """Embed each text of items once: what `clipkit textembed --items` runs. See `embed_texts`."""
    file = embed_texts(items.texts(), encoder, normalize=normalize, truncate=truncate)
    file.history[0]["items"] = items.source["items"]
    file.history[0]["inputs"] |= items.source.get("inputs", {})
    return file


def _quote(texts: Sequence[str]) -> list[str]:
    """Return the beginnings of texts, by which an error names those that are in no file."""
    return [repr(text[:SHOWN_CHARACTERS]) for text in texts]


@checked
def embed_classes(
    classes: ClassNames,
    encoder: Encoder,
    *,
    templates: Sequence[str] | None = None,
    readable: bool = False,
    normalize: bool = False,
    truncate: bool = False,
) -> FeatureFile:
    """Embed one prompt for each class: what `clipkit textembed --classes` runs.

    Several templates, or several wordings of a class, make an ensemble: each class's embeddings are
    normalised, averaged and normalised again. Warn if wordings that begin with an article fill
    a template.

    Words of attributes (classes called ``attribute: value``) need other texts as their control. If
    an attribute has fewer than 20 of them, the bundled list `neutral` is embedded with the same
    templates. It becomes `other_texts` of the file, which are no prompts.

    Parameters
    ----------
    encoder : Encoder
        A text tower.
    templates : sequence of T str, optional
        Each holds ``{}`` or ``{c}`` in place of a wording. By default, `classes` has one.
    readable : bool
        Turn underscores in the wordings into spaces.
    normalize, truncate : bool
        See `embed_texts`.

    Returns
    -------
    FeatureFile
        Of kind texts: features (C, D).
    """
    templates = _choose_templates(classes, encoder) if templates is None else list(templates)
    _warn_of_sentences(classes, templates)
    wordings = [ESCAPED_CONTROLS.sub(" ", wording) for wording in classes.wordings]
    if wordings != classes.wordings:
        console.note("characters such as %0A in names are replaced by spaces in the prompts")
    if readable:
        wordings = [prompts.readable(wording) for wording in wordings]
    texts, wording_index = prompts.from_classes(wordings, templates)
    class_index = np.array(classes.class_index)[wording_index]
    embeddings = _encode(texts, _quote(texts), encoder, truncate)  # (P * T, D)
    cleaned = encoder.cleaned_by_ftfy(texts)
    if len(texts) > len(classes.names):
        _refuse_unit_rows(encoder, "one wording and one template for each class, got more")
        embeddings = similarity.ensemble(embeddings, class_index, len(classes.names))  # (C, D)
        texts = _name_ensembles(classes, class_index, len(templates))
        class_index = np.arange(len(texts))
    elif normalize:
        embeddings = similarity.normalize(embeddings)
    is_complete = templates == [COMPLETE] and classes.source.get("prompts") is not None
    entry = features.history_entry(
        "textembed",
        model=encoder.details,
        normalize=normalize,
        truncate=truncate,
        templates=None if is_complete else templates,
        readable=readable,
        cleaned=cleaned,
        **classes.source,
    )
    file = FeatureFile(
        "texts",
        features.History([entry]),
        features=embeddings,
        texts=texts,
        class_index=class_index,
        class_names=classes.names,
    )
    without_control = _attributes_without_control(classes, encoder)
    if without_control:
        console.note(
            f"embedding the bundled list {NEUTRAL}, too: the words for {abridged(without_control)} "
            f"have fewer than {FEWEST_OTHERS} other texts as their control"
        )
        _add_neutral_texts(file, templates, encoder)
    return file


def _attributes_without_control(classes: ClassNames, encoder: Encoder) -> list[str]:
    """Return the attributes whose words have too few other texts in their file as a control."""
    is_of_file = classes.source.get("classes", "file") == "file"
    has_cosines = encoder.details.get("similarity") != DOT_PRODUCT
    if not is_of_file or not has_cosines or "layer" in encoder.details:
        return []
    attributes = [name.partition(": ")[0] for name in classes.names if ": " in name]
    most = len(classes.names) - FEWEST_OTHERS  # words that leave enough others
    return [name for name, count in Counter(attributes).items() if count > most]


def _add_neutral_texts(file: FeatureFile, templates: Sequence[str], encoder: Encoder) -> None:
    """Keep the bundled neutral texts beside words, in the same templates."""
    path = bundled.list_files()[NEUTRAL]
    subjects = prompts.parse(path.read_bytes(), NEUTRAL).texts
    texts, index = prompts.from_classes(subjects, templates)
    texts = [DOUBLED_ARTICLE.sub(r"\1 ", text) for text in texts]  # "a photo of a a hammer"
    embeddings = _encode(texts, _quote(texts), encoder, truncate=True)
    file.other_texts = subjects
    if len(templates) == 1:
        file.other_texts = texts
    file.other_features = as_float32(similarity.ensemble(embeddings, index, len(subjects)))
    file.history[0]["others"] = NEUTRAL


def _choose_templates(classes: ClassNames, encoder: Encoder) -> list[str]:
    """Return the default template."""
    if encoder.details.get("similarity") == DOT_PRODUCT:
        return [COMPLETE]  # another one begins with a word, which all answers would then be
    return [classes.template]


def _warn_of_sentences(classes: ClassNames, templates: Sequence[str]) -> None:
    """Warn if wordings that look like prompts fill a template with words of its own."""
    fillable = [template for template in templates if template != COMPLETE]
    complete = [wording for wording in classes.wordings if BEGINS_WITH_ARTICLE.match(wording)]
    is_name = classes.wordings == classes.names  # a class may be called "the beatles"
    if not fillable or not complete or (is_name and len(complete) * 2 < len(classes.names)):
        return
    example = shorten(prompts.fill(fillable[0], complete[0]))
    console.warn(
        f"wordings fill the template {fillable[0]!r}, as in {example!r}; "
        f"hint: if they are complete prompts, give --template {COMPLETE!r}"
    )


def _name_ensembles(classes: ClassNames, class_index: Int64, templates: int) -> list[str]:
    """Return the text by which the file names the prompts of each class (C)."""
    if not classes.is_ensemble:
        return [f"{wording} ({templates} templates)" for wording in classes.wordings]
    counts = np.bincount(class_index).tolist()
    pairs = zip(classes.names, counts, strict=True)
    return [f"{name} ({console.count(number, 'prompt')})" for name, number in pairs]


def _encode(
    texts: Sequence[str],
    places: list[str],
    encoder: Encoder,
    truncate: bool,
    normalize: bool = False,
) -> Floats:
    with console.progress("embedding prompts", "prompts") as progress:
        rows = encoder.encode_texts(texts, truncate=truncate, places=places, progress=progress)
    if not normalize:
        return rows
    _refuse_unit_rows(encoder, "no --normalize")
    return similarity.normalize(rows)


def _refuse_unit_rows(encoder: Encoder, expected: str) -> None:
    """Refuse to normalise rows of an output embedding: their lengths are part of the logits."""
    if encoder.details.get("similarity") == DOT_PRODUCT:
        raise UsageError(
            f"expected {expected} with a generative model: next-token logits need the lengths"
        )


# ---- Reading -------------------------------------------------------------------------------------


def name_outputs(sources: Sequence[str], output: str) -> list[str]:
    """Return the output of each source: ``{name}`` stands for the source's name.

    >>> name_outputs(["sets/a.txt", "generic32"], "txt-{name}.h5")
    ['txt-a.h5', 'txt-generic32.h5']
    """
    if NAME not in output and len(sources) > 1:
        paths = [bundled.locate(source) for source in sources]
        if not any(map(_is_file_or_stream, paths)):
            raise _no_prompts(" ".join(sources))  # the words of a prompt without quotes
        pooled = suggestions.command(*map(suggestions.path, paths))
        raise UsageError(
            f"expected an output with {NAME} for {len(sources)} prompt files, got {output}",
            f"-o 'txt-{NAME}.h5' writes a file for each; to pool text files into one: "
            f"cat {pooled} | clipkit textembed -",
        )
    if NAME not in output:
        return [output]
    outputs: dict[str, str] = {}
    for source in sources:
        if source == files.STREAM:
            raise UsageError(
                f"expected a file for {NAME} in {output}, got standard input", "name the output"
            )
        name = output.replace(NAME, Path(source).stem)
        if name in outputs:
            raise UsageError(
                f"expected outputs of different names, got {name} for {outputs[name]} and {source}",
                "embed them one by one, or rename one",
            )
        outputs[name] = source
    return list(outputs)


@checked
def read_prompts(source: str, column: str | None = None) -> Prompts:
    """Read prompts, and warn about blank and repeated ones and those with a tab.

    Parameters
    ----------
    source : str
        A prompt file, a .json or .csv file (see `clipkit.prompts.formats`), the name of a bundled
        set, or ``-`` for standard input.
    column : str, optional
        The column of a table: a .csv or .tsv file, or standard input.
    """
    path = bundled.locate(source)
    if not _is_file_or_stream(path):
        raise _no_prompts(source)
    if Path(path).is_dir():
        folder = suggestions.command(source)
        hint = f"of the names of its folders: --classes {folder}; images: clipkit embed {folder}"
        raise UsageError(f"expected a prompt file, got the folder {source}", hint)
    data, name = files.read_bytes(path), files.display_name(source)
    if data.startswith(IMAGE_SIGNATURES):
        hint = f"embed images by: {suggestions.command('clipkit', 'embed', source)}"
        raise UsageError(f"{name}: expected a prompt file, got an image", hint)
    parsed = _parse(data, path, name, column)
    if parsed is None:
        parsed = prompts.parse(data, name)
        rows = [row for row, text in enumerate(parsed.texts) if "\t" in text]
        if rows:  # they are probably lines of a table
            console.warn(
                f"{parsed.places()[rows[0]]}: the prompt holds a tab ({len(rows):,} of "
                f"{len(parsed.texts):,} do); "
                "hint: --classes reads lines of class TAB wording, and --column reads a .tsv table"
            )
    elif isinstance(parsed, ClassNames):
        parsed = prompt_files.flatten(parsed, name)
        console.note(
            f"{name}: each of its {len(parsed.texts):,} prompts is embedded by itself; "
            "--classes averages the prompts of a class"
        )
    for warning in parsed.warnings():
        console.warn(warning)
    return replace(parsed, label=_label(path))


def _parse(data: bytes, path: str, name: str, column: str | None) -> Prompts | ClassNames | None:
    """Parse JSON or a table; return None for text. Only a stream's content says what it is."""
    ending = Path(path).suffix.lower()
    if ending == ".json" or (not Path(path).is_file() and prompt_files.is_json(data)):
        return prompt_files.parse_json(data, name, column)
    if ending == ".csv" or column is not None:
        return prompt_files.parse_table(data, name, column, ending=ending)
    if ending == ".tsv" and prompt_files.has_known_header(data):
        console.note(f"{name}: the first line is taken as the header")
        return prompt_files.parse_table(data, name, ending=ending)
    return None


def _is_file_or_stream(path: str) -> bool:
    return path == files.STREAM or os.path.lexists(path)


def _label(path: str) -> str | None:
    """Return what the history calls a file; a stream has no name."""
    return escape(Path(path).stem) if Path(path).is_file() else None


def _no_prompts(source: str) -> ClipkitError:
    """Return the error for prompts that are no file and no bundled set."""
    pipe = f"{suggestions.command('echo', source)} | clipkit textembed -"
    if any(map(str.isspace, source)):
        return UsageError(f"expected a prompt file, got {source[:SHOWN_CHARACTERS]!r}", pipe)
    if not source:
        return UsageError("expected the name of a prompt file, got ''")
    path = Path(source)
    if len(path.parts) != 1 or path.suffix:
        return files.missing(str(source))
    error = unknown("prompt file or bundled set", source, bundled.list_files())
    if source in REGISTRY:
        classes = suggestions.command("--classes", source)
        error.hint = f"of its classes: {classes}; its captions, if it has some: --captions"
    elif error.hint is not None and error.hint.startswith("known"):
        return error.adding_hint(f"to embed it as a prompt: {pipe}")
    return error


def read_templates(values: Sequence[str], dataset: str = "") -> list[str]:
    """Return templates; the name of a template file stands for its templates, also if bundled.

    A .json file may hold the templates of several data sets, one of them `dataset`.
    """
    templates: list[str] = []
    for value in values:
        path = bundled.locate(value, "templates")
        if "{" not in value and Path(path).is_file() and path.lower().endswith(".json"):
            templates += prompt_files.parse_templates(files.read_bytes(path), value, dataset)
        elif "{" not in value and Path(path).is_file():
            templates += prompts.parse_templates(files.read_bytes(path), value).texts
        else:
            templates.append(value)
    return templates


@checked
def read_class_names(source: str, root: str | None = None, column: str | None = None) -> ClassNames:
    """Read class names from a feature file, a file of classes, or a data set.

    Warn if two classes have one wording, so that no prompt distinguishes them.

    Parameters
    ----------
    source : str
        A feature file; a text file (in each line a name, or a name, a tab and a wording); a .json
        or .csv file (see `clipkit.prompts.formats`); ``-`` for one of these on standard input;
        bundled words such as ``attributes/shapes``; or a data set: its name, folder or manifest.
    root : str, optional
        The folder that holds a named data set. By default, its class names are those that clipkit
        lists, without the data.
    column : str, optional
        The column of a table, ``name`` or ``wnid`` of a class index, or a data set of a .json file.
        Of other classes, it is the data set of their templates.
    """
    path = bundled.locate(source, "attributes") if "/" in source else source
    if _is_file_or_stream(path) and not _holds_images(path):
        if root is not None:
            raise UsageError(f"root: expected a named data set, got {source}", "leave --root out")
        classes = _read_class_file(source, path, column)
    else:
        classes = _read_dataset(source, root)
    if column is not None:
        classes = replace(classes, dataset=column)
    wording, number = classes.repeated_wording()
    if number > 1:
        hint = "give them other wordings in a text file (name, tab, wording)"
        if len(set(classes.names)) < len(classes.names):
            # a file of wordings would take the rows of both classes as descriptions of one
            hint = "give them different names, for example in the class_index.json of the images"
        console.warn(
            f"{source}: {number} classes are called {wording!r}: their prompts are the same; "
            f"hint: {hint}"
        )
    return classes


def _holds_images(path: str) -> bool:
    from clipkit import datasets

    return Path(path).is_dir() or datasets.names_images(path)


def _read_dataset(source: str, root: str | None) -> ClassNames:
    data_set = REGISTRY.get(source)
    if root is None and data_set and data_set.class_names:
        return ClassNames(data_set.class_names(), source={"classes": source}, dataset=source)
    from clipkit import datasets

    names = datasets.load(source, root=root).class_names
    if not names:
        raise ClipkitError(f"{source}: expected class names, but its images are not labelled")
    return ClassNames(names, source={"classes": source}, dataset=Path(source).name)


def _read_class_file(source: str, path: str, column: str | None) -> ClassNames:
    name = files.display_name(source)
    if Path(path).is_file():
        with Path(path).open("rb") as stream:
            start = stream.read(len(files.HDF5_SIGNATURE))
        if start == files.HDF5_SIGNATURE:
            with features.open_file(source) as file:
                return classes_of(file, source)
    data = files.read_bytes(path, is_text=False)
    if data.startswith(files.HDF5_SIGNATURE):
        raise ClipkitError(
            f"{name}: expected class names, got a feature file", "name it: --classes FILE.h5"
        )
    parsed = _parse(data, path, name, column)
    if parsed is None:
        parsed, warnings = prompt_files.parse_class_lines(data, name)
    elif isinstance(parsed, Prompts):
        warnings = parsed.warnings()
        parsed = ClassNames(parsed.texts)
    else:
        warnings = parsed.warnings(name)
    for warning in warnings:
        console.warn(warning)
    history: dict[str, Any] = {"classes": "file"}
    if parsed.wordings != parsed.names:
        history["inputs"] = {"classes": files.digest(data)}
        history["prompts"] = _label(path)
    return replace(parsed, source=history)


def classes_of(file: FeatureFile, source: str) -> ClassNames:
    """Return the class names of a feature file, which messages call `source`, and its model."""
    if not file.class_names:
        raise ClipkitError(f"{source}: expected class names, got none")
    return ClassNames(
        file.class_names,
        source={"classes": "feature file", "inputs": {"classes": file.digest}},
        model=file.model(),
        file=source,
        dataset=provenance(file).dataset,
    )


def list_choices(question: str, classes: ClassNames) -> tuple[str, tuple[str, ...]]:
    """Return a question that lists choices with letters, and the names of the choices.

    >>> list_choices("What is it?", ClassNames(["cat", "dog"]))[0].splitlines()[1:3]
    ['A. cat', 'B. dog']
    """
    count, most = len(classes.wordings), len(ascii_uppercase)
    if count > most or classes.is_ensemble:
        raise ClipkitError(
            f"--choices: expected at most {most}, with one wording each, got {count}"
        )
    looks: set[str] = set()
    for wording in classes.wordings:
        letters = unicodedata.normalize("NFC", wording)
        look = "".join(one for one in letters if unicodedata.category(one) != "Cf")  # no width
        if look in looks:
            raise ClipkitError(f"--choices: expected different names, got {look!r} twice")
        looks.add(look)
        if len(wording.splitlines()) > 1:  # its second line would read as a choice
            raise ClipkitError(f"--choices: expected names of one line, got {wording!r}")
    lines = [question]
    for letter, wording in zip(ascii_uppercase, classes.wordings, strict=False):
        lines.append(f"{letter}. {wording}")
    return "\n".join([*lines, ANSWER_WITH_LETTER]), tuple(classes.names)


def follow_question(
    classes: ClassNames, model: str, options: RunOptions
) -> tuple[ClassNames, RunOptions]:
    """Take the question of the feature file that class names come from, unless one is given.

    If the question lists choices, the answers are their letters.
    """
    details = classes.model or {}
    question = details.get("question")
    if "as_embedding" in details or options.ask is not None:
        return classes, options  # texts have a question of their own
    if question is None or details["name"] != canonical_name(model):
        return classes, options
    choices = [str(name) for name in details.get("choices", [])]
    if choices:
        letters = list(ascii_uppercase[: len(choices)])
        classes = replace(
            classes, names=choices, wordings=letters, class_index=[], template=COMPLETE
        )
    return classes, replace(options, ask=str(question), choices=tuple(choices))


def choose_model(
    details: Mapping[str, Any] | None, source: str, model: str, untrained: int | None
) -> tuple[str, int | None]:
    """Return the model that a feature file's history describes, and the seed of a control.

    A note says which model that is, as in `source`. Without `details`, or if they name none,
    `model` and `untrained` are returned. A seed in `untrained` replaces the file's.
    """
    details = details or {}
    name, seed = details.get("name"), details.get("untrained")
    if not isinstance(name, str) or not name:
        return model, untrained
    if "python" in details or is_python(name):
        # a file from a stranger must not choose what code runs
        raise UsageError(
            f"{source} comes from one's own encoder, {shorten(name, SHOWN_CHARACTERS)}, which only "
            "you can name",
            "name its Python file: --model python:FILE.py:make",
        )
    if untrained is None and isinstance(seed, int) and 0 <= seed <= MAX_INTEGER:
        untrained = seed
    control = "" if untrained is None else f", untrained with seed {untrained}"
    console.note(f"model: {name}{control}, as in {source}")
    return name, untrained
