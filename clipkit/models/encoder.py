"""Encode images and texts with one tower of a frozen CLIP-like dual encoder."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clipkit.base import console
from clipkit.base.errors import SMALLEST, ClipkitError, UsageError
from clipkit.base.names import omit
from clipkit.features.history import DOT_PRODUCT
from clipkit.models import own_encoder
from clipkit.models.acceleration import (
    DTYPES,
    AsyncEmbeddings,
    accelerate,
    choose_precision,
    find_device,
    move_compiler_folder,
)
from clipkit.models.architecture import SCALARS, Architecture, load_tensors, not_finite
from clipkit.models.hub import BUNDLED, ModelFiles, combine_digests, find
from clipkit.models.libraries import (
    check_installed,
    library_version,
    named,
    quiet_loading,
    single_line_errors,
)
from clipkit.models.options import RunOptions, check_taken
from clipkit.models.preprocessing import Inputs, Preprocessor
from clipkit.models.tokenizer import TextTokenizer
from clipkit.models.towers import SIZE_HINT, LayerTower, Tower, TowerName, choose_layers
from clipkit.prompts.texts import check_length

PROMPTS = ["a photo", "a photo of two dots"]  # are encoded when a text tower is loaded
# Between an embedding alone and in a batch, relative to its length: libraries choose other kernels.
# One's own encoder may be quantised, by the largest number of a batch.
OWN = "own"
BATCH_TOLERANCES = {"fp64": 1e-4, "fp32": 5e-3, "fp16": 0.05, "bf16": 0.1, OWN: 0.02}
SWAPPED = 0.1  # of the distance to its own embedding: each row is the other image's
NOTED_CHANGE = 1e-3  # more than the last bits of float32
ONE_BY_ONE = "encode images one by one: -b 1"
PROCESSOR_HINT = "check the sizes and steps in preprocessor_config.json"
# The module of the adapter of each library that a model's files may belong to.
ADAPTERS = {
    "transformers": "clipkit.models.transformers_models",
    "open_clip": "clipkit.models.open_clip_models",
    "timm": "clipkit.models.timm_models",
}
Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class EncoderDescription:
    """The details of one tower for a history. `Encoder` documents the attributes."""

    details: dict[str, Any]
    parts: dict[str, str] = field(repr=False)
    columns: dict[int, slice] = field(kw_only=True, default_factory=dict)

    def layer_details(self, layer: int) -> dict[str, Any]:
        """Return what a history records of one of the layers in `columns`."""
        columns = self.columns[layer]
        return {**self.details, "layer": layer, "dim": columns.stop - columns.start}


@dataclass(frozen=True, eq=False)
class Encoder(EncoderDescription):
    """One tower of a frozen dual encoder. `load` makes it.

    Attributes
    ----------
    details : dict
        What a history records, in types that JSON has: ``name`` (the repository in place of an
        alias), ``library`` (with its version), ``digest`` (``sha256:<hex>`` of the weights, the
        configuration and the files of the tokenizer and the image processor), ``weights`` (the
        digest of the weights alone), ``untrained`` (the seed, if there is one), ``tower``, ``dim``,
        ``precision``, ``device``, ``logit_scale`` and any ``logit_bias``. Texts add ``cleaning`` if
        they are cleaned; images ``preprocessing`` and any ``packed``, since these change
        the last bits; a model for images alone ``embedding``: the pooler, the CLS token or
        the mean. Hidden states have ``layer`` (a list for several), ``layers`` (the number n of
        all), ``norm``, and of images ``pool``, in place of ``embedding`` and the logits' scale.
        Without the projection, ``projection`` is ``none``. ``image_size`` is the one that was asked
        for. A kind of model that clipkit's tests do not cover has ``tested`` false, and
        ``embedding`` says how its embedding is taken from what the model returns.
    columns : dict of int to slice
        The columns of each layer in what the encoder returns; empty for embeddings.
    parts : dict of str to str
        The digest of each file that ``digest`` covers, and of the ``weights``.
    """

    _tower: Callable[..., torch.Tensor] = field(repr=False)
    _device: torch.device = field(repr=False)
    _preprocessor: Preprocessor | None = field(default=None, repr=False)
    _tokenizer: TextTokenizer | None = field(default=None, repr=False)
    _non_blocking: bool = field(default=False, repr=False)

    @property
    def tower(self) -> str:
        """``image`` or ``text``: the only kind of input that the encoder takes."""
        return str(self.details["tower"])

    @property
    def dim(self) -> int:
        """The number D of columns: the embedding size, or the sum of the layers' widths."""
        return int(self.details["dim"])

    @property
    def has_digest(self) -> bool:
        """Whether weights or files of the model, and not only its code, have a digest."""
        return any(not name.endswith(".py") for name in self.parts)

    def preprocess(self, images: Image.Image | Sequence[Image.Image]) -> Inputs:
        """Resize images as the model's own processor does, and crop them as OpenAI's code does.

        Safe to call from several threads.

        Parameters
        ----------
        images : PIL.Image.Image or sequence of PIL.Image.Image
            One image, or B images of any sizes. They are resized together if all have one size.

        Returns
        -------
        pixels : Tensor of shape (B, 3, H, W), or dict of str to Tensor
            For `encode_images`, which rescales and normalises them. SigLIP 2 NaFlex takes images in
            their aspect ratios, as a dict of patches, their mask and their rows and columns.
        """
        if isinstance(images, Image.Image):
            images = [images]
        return self._prepare(lambda preprocessor: preprocessor.resize_and_crop(images))

    def encode_images(
        self, images: Inputs | Image.Image | Sequence[Image.Image]
    ) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        images : what `preprocess` returns or takes, or Tensor of shape (3, H, W)
            Pixels from `preprocess`, or images to be preprocessed first. One image gives one row.

        Returns
        -------
        embeddings : ndarray of shape (B, D), float32
            Projected, not normalised; or hidden states, layer beside layer. On a GPU,
            a `non_blocking` encoder returns an array-like that waits for the embeddings when numpy
            reads it.
        """
        is_prepared = isinstance(images, torch.Tensor | Mapping)
        pixels: Any = images if is_prepared else self.preprocess(images)  # type: ignore[arg-type]
        if isinstance(pixels, torch.Tensor) and pixels.ndim == 3:
            pixels = pixels[None]
        normalized = self._normalize(pixels)
        if isinstance(normalized, Mapping):
            return self._to_array(self._run(**normalized))
        return self._to_array(self._run(pixel_values=normalized))

    def _normalize(self, pixels: Any) -> Inputs:
        """Return what the tower takes for preprocessed images."""
        return self._prepare(lambda preprocessor: preprocessor.normalize(pixels))

    def encode_texts(
        self,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        places: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Embed texts, in batches.

        Parameters
        ----------
        texts : str or sequence of str
            One text or K texts. One text gives one row.
        truncate : bool
            Cut texts that are too long for the model instead of refusing them.
        places : sequence of K str, optional
            What an error calls each text; by default it counts them.
        progress : callable, optional
            Called with the number of texts done and K after each batch.

        Returns
        -------
        embeddings : ndarray of shape (K, D), float32
            Projected, not normalised.

        Raises
        ------
        ClipkitError
            If a text has more than 10,000 characters, or more tokens than the model takes and
            `truncate` is false, or if nothing is left of it after cleaning.
        """
        tokenizer = self._require("text", self._tokenizer)
        texts = [texts] if isinstance(texts, str) else list(texts)
        if places is None:
            places = [f"text {i} (counted from 0)" for i in range(len(texts))]
        for text, place in zip(texts, places, strict=True):
            check_length(len(text), place)
        texts = tokenizer.clean(texts, places)
        tokenizer.check_growth(texts, places)
        if not truncate:
            tokenizer.check_lengths(texts, places)
        tokenizer.warn_of_other_tokens(texts)
        embeddings = np.zeros((len(texts), self.details["dim"] or 0), np.float32)
        for start in range(0, len(texts), tokenizer.batch_size):
            batch = texts[start : start + tokenizer.batch_size]
            inputs = tokenizer.inputs(batch)
            rows = self._to_array(self._run(**self._moved(inputs)))
            if rows.shape[1] != embeddings.shape[1]:  # the first text tells the width of a layer
                embeddings = np.zeros((len(texts), rows.shape[1]), np.float32)
            embeddings[start : start + len(batch)] = rows
            if progress is not None:
                progress(start + len(batch), len(texts))
        return embeddings

    def _moved(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Put the tensors among the inputs where the tower runs."""
        moved = dict(inputs)
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor):
                moved[name] = value.to(self._device)
        return moved

    def cleaned_by_ftfy(self, texts: Sequence[str]) -> dict[str, Any] | None:
        """Return ftfy's version and how many texts `encode_texts` cleans by it; None for none."""
        return self._require("text", self._tokenizer).cleaned_by_ftfy(texts)

    def _prepare(self, step: Callable[[Preprocessor], Inputs]) -> Inputs:
        """Let the preprocessor do one of its steps."""
        preprocessor = self._require("image", self._preprocessor)
        is_own = self.details.get("library") == own_encoder.LIBRARY
        hint = None if is_own else PROCESSOR_HINT
        name = self.details["name"]
        with named(name), single_line_errors(f"preprocess an image for {name}", hint):
            return step(preprocessor)

    def _run(self, **inputs: torch.Tensor) -> torch.Tensor:
        is_half = self.details.get("precision") in ("bf16", "fp16")
        hint = "try --precision fp32" if is_half else None
        if "image_size" in self.details:
            hint = SIZE_HINT
        name = self.details["name"]
        with named(name), single_line_errors(f"encode with {name}", hint):
            return self._tower(**inputs)

    def _to_array(self, embeddings: torch.Tensor) -> NDArray[np.float32]:
        if self._non_blocking and embeddings.is_cuda:
            return AsyncEmbeddings(embeddings.float())  # type: ignore[return-value]
        return embeddings.float().cpu().numpy()

    def _require(self, tower: TowerName, part: Part | None) -> Part:
        """Return a part that only this tower has."""
        if part is None:
            raise UsageError(
                f"{self.details['name']}: expected the {tower} tower, got the {self.tower} tower",
                f'load it with tower="{tower}"',
            )
        return part


@console.stage("loading the model")
def load(
    name: Any, *, tower: TowerName, options: RunOptions | None = None, **settings: Any
) -> Encoder:
    """Load one tower of a model.

    Parameters
    ----------
    name : str, callable or object
        ``tiny``, an alias such as ``ViT-B/32``, a local folder, a Hugging Face id, or
        ``python:FILE.py:make`` for one's own encoder: what the function ``make`` of a Python file
        returns. In Python, also that function, or what it returns: an object with
        ``image(pixels)`` or ``text(texts)``, as docs/encoders.md describes it.
    tower : {"image", "text"}
        The tower to load; the other one takes no memory.
    options : RunOptions, optional
        How it runs. In its place, `settings` may give the fields of `RunOptions` by name.

    Raises
    ------
    UsageError
        If the name, device or precision is not known, or the model has no such layer, CLS token,
        norm or projection.
    ClipkitError
        If the model cannot be found or is damaged, its files do not fit each other, or the device
        is absent, or an embedding depends on its batch. Two images or prompts are encoded, so that
        this shows before the work.
    """
    options = options or RunOptions.from_settings(settings)
    encoder = load_unchecked(name, tower, options)
    is_words = tower == "text" and encoder.details.get("similarity") == DOT_PRODUCT
    if not is_words:
        encoder = _check_and_measure(encoder, options.batch_size)
    if own_encoder.is_own(name):
        _note_digest(encoder)
    return encoder


def load_unchecked(name: Any, tower: TowerName, options: RunOptions) -> Encoder:
    """Load one tower of a model, and encode nothing yet, so that its width may be unknown."""
    options.check()
    move_compiler_folder()
    if own_encoder.is_own(name):
        return _load_own(name, tower, options)
    return _load_named(name, tower, options)


def describe_model(name: str) -> dict[str, Any]:
    """Return a model's towers, sizes and learned temperature.

    Parameters
    ----------
    name : str
        As in `load`.

    Returns
    -------
    dict
        ``name``, ``library`` (with its version), ``family``, ``digest``, ``weights`` (the digest
        of the weights alone), ``dim``, ``parameters``, ``logit_scale`` (exp of the learned one),
        ``temperature`` (its inverse), ``logit_bias`` if the model has one, and the towers
        ``image`` and ``text`` with what their library knows of ``layers``, ``width``, ``heads``,
        ``parameters``, ``patch_size`` and ``image_size``, ``context_length`` and ``vocabulary``. A
        model for images alone has no scale, temperature and ``text``, and may have no ``dim``.
    """
    move_compiler_folder()
    files = find(name)
    architecture = read_architecture(files)
    architecture.check_stored(*architecture.towers)
    scalars = architecture.logit_scale(load_tensors(files, (*SCALARS, "temperature")))
    if scalars:
        scalars["temperature"] = 1 / scalars["logit_scale"]
    weights = files.digest_weights()
    described: dict[str, Any] = {
        "name": files.name,
        "library": library_version(files.library),
        "family": architecture.kind,
        "digest": combine_digests({**architecture.digest_side_files(), "weights": weights}),
        "weights": weights,
    }
    if architecture.dim:
        described["dim"] = architecture.dim
    described["parameters"] = architecture.parameters()
    return {**described, **scalars, **architecture.describe_towers()}


def _load_named(name: str, tower: TowerName, options: RunOptions) -> Encoder:
    """Load a model that clipkit reads."""
    device = find_device(options.device, needs_float64=name in BUNDLED)
    files = find(name, weights=options.untrained is None)
    if files.is_generative:
        return _load_generative(files, tower, options, device)
    architecture = _read(files, tower, options)
    is_plain = tower == "text" or not architecture.is_tested
    precision = choose_precision(
        options.precision, device, is_plain=is_plain, is_bundled=files.is_bundled
    )
    dtype = DTYPES[precision]
    loaded = architecture.load_tower(tower, options.untrained, precision)
    details: dict[str, Any] = {
        "name": files.name,
        "library": library_version(architecture.library),
        **loaded.digests(),
        "tower": tower,
        "dim": architecture.dim,  # if it is not known, an embedding tells
        "precision": precision,
        "device": device.type,
        **loaded.logit_scale,
        **options.changes(),
    }
    built = loaded.tower
    if not architecture.is_tested:
        details |= {"tested": False, "embedding": built.output}
    if not options.projection:
        built = architecture.without_projection(built)
    tokenizer, preprocessor = None, None
    if tower == "text":
        tokenizer = architecture.tokenizer(clean=options.clean)
        built.model.to(device, dtype)
        if tokenizer.cleaning:
            details["cleaning"] = tokenizer.cleaning
    else:
        preprocessor = architecture.preprocessor(device, dtype)
        details["preprocessing"] = _preprocessing(files, preprocessor)
        with single_line_errors(f"encode with {files.name}"):
            size = preprocessor.example_size() if architecture.is_tested else None
            details |= accelerate(built, device, dtype, size)
        if not architecture.is_dual:
            details["embedding"] = built.output
    run: Tower | LayerTower = built
    if options.layers is not None:
        with named(files.name):
            stack = architecture.stack(built)
            run = choose_layers(
                built.model, stack, tower, options.layers, pool=options.pool, norm=options.norm
            )
        details = _hidden_state_details(details, run)
    elif not options.projection:
        details = {**_without_scale(details), "projection": "none"}
    _note_details(files, details)
    return Encoder(
        details,
        loaded.parts,
        run,
        device,
        _preprocessor=preprocessor,
        _tokenizer=tokenizer,
        _non_blocking=options.non_blocking,
    )


def _load_generative(
    files: ModelFiles, tower: TowerName, options: RunOptions, device: torch.device
) -> Encoder:
    """Load a model that is asked about images."""
    from clipkit.models import generative, vision_towers

    is_words = tower == "text" and not options.as_embedding
    precision = choose_precision(
        options.precision, device, is_plain=is_words, is_bundled=files.is_bundled
    )
    if options.vision_tower:
        asked = vision_towers.load(files, options, device, precision)
        asked["details"] = _hidden_state_details(asked["details"], asked["_tower"])
    else:
        asked = generative.load(files, tower, options, device, precision)
    _note_details(files, asked["details"])
    return Encoder(**asked, _non_blocking=options.non_blocking)


def _load_own(source: Any, tower: TowerName, options: RunOptions) -> Encoder:
    """Load one's own encoder."""
    own = own_encoder.load(source, tower, options)
    if options.layers is not None:
        own["details"] = _hidden_state_details(own["details"], own["_tower"])
    return Encoder(**own, _non_blocking=options.non_blocking)


def _note_digest(encoder: Encoder) -> None:
    """Tell a user that nothing but the code of one's own encoder has a digest, if that is so."""
    name = encoder.details["name"]
    if not encoder.has_digest:
        console.note(
            f"{name}: its history has no digest of weights: none were found; name their files in "
            "files = [...], or give it another name when they change"
        )
    console.detail(f"own encoder {name}: {encoder.details['digest']}")


def _read(files: ModelFiles, tower: TowerName, options: RunOptions) -> Architecture:
    """Read an architecture. If a CLIP allows it, read one tower alone, without transformers."""
    architecture: Architecture | None = None
    if not options.changes():
        from clipkit.models.plain_clip import PlainClip

        architecture = PlainClip.read_known(files, tower)
    architecture = architecture or read_architecture(files)
    with named(files.name):
        what = f"{own_encoder.WHAT[tower]} of {architecture.kind}"
        check_taken(options, architecture.taken[tower], what)
    if options.image_size is not None:
        architecture.resize(options.image_size)
    return architecture


def read_architecture(files: ModelFiles) -> Architecture:
    """Read a model's configuration by the adapter of its library."""
    check_installed(files.name, files.library)
    if files.is_generative:
        raise ClipkitError(
            f"{files.name}: expected a model that embeds images, got a generative one",
            "ask it about images: clipkit embed DATASET --ask QUESTION",
        )
    with quiet_loading(f"the library {files.library}"):
        adapter: Any = importlib.import_module(ADAPTERS[files.library])
    architecture: Architecture = adapter.ADAPTER.read(files)
    return architecture


def _preprocessing(files: ModelFiles, preprocessor: Preprocessor) -> dict[str, Any]:
    """Return the settings of a preprocessor, which must be numbers that JSON has."""
    with single_line_errors(f"load the image processor of {files.name}"):
        details = preprocessor.details()
        json.dumps(details, allow_nan=False)
    return details


def _without_scale(details: dict[str, Any]) -> dict[str, Any]:
    """Leave out the scale and bias of cosines with texts, and what an embedding is."""
    return omit(details, ("logit_scale", "logit_bias", "embedding"))


def _hidden_state_details(details: dict[str, Any], tower: LayerTower) -> dict[str, Any]:
    """Return what a history records of hidden states; a list in place of one layer's number."""
    layer: int | list[int] = list(tower.layers)
    if len(tower.layers) == 1:
        layer = tower.layers[0]
    details = _without_scale(details)
    details |= {"dim": None, "layer": layer, "layers": len(tower.stack.layers)}
    if tower.pool is not None:
        details["pool"] = tower.pool
    details["norm"] = tower.norm
    return details


def _note_details(files: ModelFiles, details: dict[str, Any]) -> None:
    """Tell a user who asked for details which files were loaded, and how the tower runs.

    Tell every user if a kind of model is not tested.
    """
    if not details.get("tested", True):
        console.note(
            f"{files.name}: clipkit's tests do not cover this kind of model; the library's own "
            f"methods give its {details.get('embedding', 'features')}"
        )
    weights = ", ".join(str(path) for path in files.weights) or "random initialisation"
    console.detail(f"model {details['name']}: {weights}, {details['digest']}")
    how = f"{details['tower']} tower on {details['device']} in {details['precision']}"
    if details.get("packed"):
        how += ", packed"
    threads = console.count(torch.get_num_threads(), "thread")
    console.detail(f"{how}, {threads} of PyTorch")


def _check_and_measure(encoder: Encoder, batch_size: int) -> Encoder:
    """Encode images or prompts, to check that the model's files fit each other; set the width.

    The layers of one model may differ in width.
    """
    tower: Any = encoder._tower
    widths: dict[int, int] = {}

    def run(**inputs: torch.Tensor) -> torch.Tensor:
        states = tower.states(inputs)
        widths.update({number: state.shape[1] for number, state in states.items()})
        return torch.cat(list(states.values()), dim=1)

    has_layers = "layer" in encoder.details
    with named(encoder.details["name"]):
        dim = _measure(replace(encoder, _tower=run if has_layers else tower), batch_size)
    columns = {}
    start = 0
    for number, width in widths.items():
        columns[number] = slice(start, start + width)
        start += width
    return replace(encoder, columns=columns, details={**encoder.details, "dim": dim})


def _measure(encoder: Encoder, batch_size: int) -> int:
    """Return the width D of an embedding, which must be finite.

    Two different images or prompts are encoded apart and together: an embedding must not depend on
    its batch, unless images are encoded one by one.
    """
    kind = "prompt"
    pair: Any = PROMPTS
    encode: Callable[[Any], NDArray[np.float32]] = partial(_encode_prompts, encoder)
    if encoder._preprocessor is not None:
        kind = "image"
        pair = encoder._preprocessor.examples()
        encode = encoder.encode_images
    first = np.asarray(encode(pair[:1]))  # waits for a GPU
    is_own = encoder.details.get("library") == own_encoder.LIBRARY
    if not np.isfinite(first).all():
        what = f"embedding of a first {kind}"
        raise not_finite(what, hint=None) if is_own else not_finite(what)
    if kind == "image" and batch_size == 1 and not is_own:
        return int(first.shape[1])
    try:
        second = np.asarray(encode(pair[1:]))
    except ClipkitError as error:
        if kind == "prompt" or is_own:
            raise
        raise error.adding_hint(ONE_BY_ONE) from error  # of a shape that the data may lack
    apart = np.concatenate([first, second])
    if kind == "prompt" or batch_size > 1:
        _check_batch(encoder, apart, partial(encode, pair), kind)
    if is_own:
        _check_distinct(apart, kind)
    return int(first.shape[1])


def _check_distinct(rows: NDArray[np.float32], kind: str) -> None:
    """Refuse embeddings (2, D) of two different images or prompts that are equal or zero."""
    if not rows.any(axis=1).all():
        raise ClipkitError(f"expected an embedding of a first {kind}, got zeros")
    if np.array_equal(rows[0], rows[1]):
        raise ClipkitError(f"expected different embeddings of two {kind}s, got equal ones")


def _encode_prompts(encoder: Encoder, prompts: Sequence[str]) -> NDArray[np.float32]:
    """Encode the first of `PROMPTS`, which must fit, or others, which may be cut."""
    places = [f"the text {prompt!r}" for prompt in prompts]
    return encoder.encode_texts(prompts, truncate=prompts != PROMPTS[:1], places=places)


def _check_batch(
    encoder: Encoder,
    apart: NDArray[np.float32],
    encode: Callable[[], NDArray[np.float32]],
    kind: str,
) -> None:
    """Refuse an encoder that does not give the two rows (2, D) of `apart` in one batch."""
    precision = encoder.details.get("precision", OWN)
    change, got = math.inf, ""
    try:
        rows = np.asarray(encode())
    except ClipkitError as error:
        reason = error.message.removeprefix(f"{encoder.details['name']}: ")
        got = f"an error in a batch of 2: {reason}"
    else:
        if rows.shape == apart.shape:
            lengths = np.linalg.norm(apart, axis=1).clip(min=SMALLEST)
            changes = np.linalg.norm(rows - apart, axis=1)
            change = float((changes / lengths).max())
            got = f"one that differs by {change:.2g} of its length in a batch of 2"
            if (np.linalg.norm(rows - apart[::-1], axis=1) < SWAPPED * changes).all():
                change, got = math.inf, f"that of the other {kind} in a batch of 2"
        else:
            got = f"an array of the shape {rows.shape} in a batch of 2"
    if not change <= BATCH_TOLERANCES[precision]:
        hints = [ONE_BY_ONE] * (kind == "image")
        if precision == OWN:
            hints.insert(0, "call eval() on the model, and keep the order")
        raise ClipkitError(
            f"expected one embedding of the same {kind} in every batch, got {got}",
            ", or ".join(hints) or None,
        )
    if precision == OWN and change > NOTED_CHANGE:
        name = encoder.details["name"]
        console.note(f"{name}: another {kind} of a batch changes an embedding by {change:.1%}")
