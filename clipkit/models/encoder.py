"""A model's name -> an Encoder: images -> embeddings, texts -> embeddings. Frozen CLIP-like dual encoders.

`clipkit.models.hub` finds a model's files, `clipkit.models.loading` makes them into a tower, `clipkit.models.preprocessing` is
what goes before an image tower, and `clipkit.models.acceleration` makes a tower fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clipkit.errors import ClipkitError, unknown
from clipkit.models.acceleration import Pending, compiled, packed
from clipkit.models.hub import find
from clipkit.models.loading import (
    PREFIXES,
    SCALARS,
    Family,
    Tower,
    embedding_size,
    image_processor,
    initialised,
    logit_scale,
    preprocessing,
    read_config,
    stored,
    tokenizer,
    tower_model,
)
from clipkit.models.preprocessing import Pixels

__all__ = ["DTYPES", "Encoder", "load"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_BATCH = 256


@dataclass(eq=False)
class Encoder:
    """One tower of a frozen dual encoder; `load` makes it.

    Attributes
    ----------
    name : str
        The model's name; an alias is written out.
    digest : str
        Of the weights, ``sha256:<hex>``.
    tower : {"image", "text"}
        Which tower it is: the one encodes images only, the other texts only.
    dim : int
        The embedding size D.
    context_length : int
        How many tokens a text may have, special tokens included.
    details : dict
        What a history records, as JSON can hold it: ``name``, ``digest``, ``untrained`` (the seed, if so), ``tower``,
        ``dim``, ``precision``, ``device``, ``logit_scale``, ``logit_bias`` (if any) and, for images, ``preprocessing``,
        ``compile`` and, where layers were packed for oneDNN, ``packed``: they move the last bits.
    wait : bool
        False: on a GPU `encode_images` returns at once, with an array-like that numpy waits for.
    """

    name: str
    digest: str
    tower: Tower
    dim: int
    context_length: int
    details: dict[str, Any]
    _family: Family = field(repr=False)
    _model: torch.nn.Module = field(repr=False)
    _prepare: Any = field(repr=False)  # the `Pixels` before an image tower, or the tokenizer
    _batch: int = field(
        default=0, repr=False
    )  # how many images a compiled tower takes, neither more nor less
    wait: bool = True

    def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Resize and crop as the model's own processor does. Safe to call from several threads.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            B images, one or more, of any sizes; those of one size are worked on together.

        Returns
        -------
        pixels : Tensor of shape (B, 3, H, W)
            For `encode_images`, which rescales and normalises them: bytes, or floats where that is done already.
        """
        pixels: torch.Tensor = self._prepare.prepare(images)
        return pixels

    def encode_images(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        pixels : Tensor of shape (B, 3, H, W)
            What `preprocess` gave.

        Returns
        -------
        embeddings : ndarray of shape (B, D), float32
            Projected, not normalised.
        """
        step = self._batch or len(pixels)
        parts = [
            self._run(pixel_values=self._padded(part))
            for part in self._prepare.finish(pixels).split(step)
        ]
        embeddings = (torch.cat(parts) if len(parts) > 1 else parts[0])[: len(pixels)]
        return self._fetch(embeddings)

    def _padded(self, pixels: torch.Tensor) -> torch.Tensor:
        """Rows of zeros up to a compiled tower's batch; rows do not see each other."""
        missing = max(0, self._batch - len(pixels))
        return (
            torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])]) if missing else pixels
        )

    def token_lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Count tokens, special ones included; at most `context_length` fit.

        Parameters
        ----------
        texts : sequence of str
            K texts.

        Returns
        -------
        lengths : ndarray of shape (K,), int64
        """
        rows = (
            self._prepare(list(texts), truncation=False, verbose=False)["input_ids"]
            if texts
            else []
        )
        return np.array([len(row) for row in rows], np.int64)

    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> NDArray[np.float32]:
        """Embed texts.

        Parameters
        ----------
        texts : sequence of str
            K texts.
        truncate : bool
            Cut texts of more than `context_length` tokens instead of refusing them.

        Returns
        -------
        embeddings : ndarray of shape (K, D), float32
            Projected, not normalised.

        Raises
        ------
        ClipkitError
            If a text is too long and `truncate` is false.
        """
        long = self.token_lengths(texts) > self.context_length
        if long.any() and not truncate:
            first = int(long.argmax())
            raise ClipkitError(
                f"a text must have at most {self.context_length} tokens; text {first} (counted from 0) has "
                f"{self.token_lengths(texts[first : first + 1])[0]}, and {long.sum()} of {len(texts)} are too long",
                "shorten them, or cut them with --truncate",
            )
        batches = [
            self._encode_batch(texts[start : start + TEXT_BATCH])
            for start in range(0, len(texts), TEXT_BATCH)
        ]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *batches])

    def _encode_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        # no attention mask: CLIP's pooled token cannot see the padding, and SigLIP must see it
        tokens: torch.Tensor = self._prepare(
            list(texts),
            padding=self._family.padding,
            padding_side="right",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )["input_ids"]
        table = self._model.get_input_embeddings().weight  # type: ignore[operator]
        if int(tokens.max()) >= len(table):
            raise ClipkitError(
                f"{self.name} must know every token of its tokenizer; got token {int(tokens.max())} of {len(table)}",
                "its tokenizer's files seem to be another model's",
            )
        return self._fetch(self._run(input_ids=tokens.to(table.device)))

    @torch.inference_mode()
    def _run(self, **batch: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._model(**batch)[self._family.output[self.tower]]
        return embeddings

    def _fetch(self, embeddings: torch.Tensor) -> NDArray[np.float32]:
        if embeddings.is_cuda and not self.wait:
            return Pending(embeddings.float())  # type: ignore[return-value]
        found: NDArray[np.float32] = embeddings.float().cpu().numpy()
        return found


def load(
    name: str,
    *,
    tower: Tower,
    device: str = "auto",
    precision: str = "auto",
    untrained: int | None = None,
    compile_for: int = 0,
) -> Encoder:
    """Load one tower of a model.

    Parameters
    ----------
    name : str
        ``tiny``, an alias such as ``ViT-B/32``, a local directory, or a Hugging Face id.
    tower : {"image", "text"}
        The tower to load; the other one takes no memory.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    precision : str
        What to compute in: ``fp32``, ``bf16``, ``fp16``, or ``auto``, the fastest that the device does natively.
        Embeddings are float32 in any case.
    untrained : int, optional
        A seed: the same architecture with freshly initialised weights. Both towers of a seed come from one model.
    compile_for : int
        Compile an image tower for batches of so many images; 0: do not. Where compiling fails a note says so, and
        the tower runs without.

    Raises
    ------
    UsageError
        If the name, device or precision is not known.
    ClipkitError
        If the model cannot be had or is damaged, or the device is absent.
    """
    where = _device(device)
    precision = _precision(precision, where)
    files = find(name, weights=untrained is None)
    family, config = read_config(files)
    with ThreadPoolExecutor(
        1
    ) as aside:  # the digest reads all of the weights while their classes are imported
        digesting = aside.submit(files.digest)
        if untrained is None:
            state = stored(files, (*PREFIXES[tower], *SCALARS))
        else:
            fresh, state = initialised(files, family, config, untrained)
        model = tower_model(files, family, config, tower, state)
        digest = digesting.result() if untrained is None else fresh
    details: dict[str, Any] = {
        "name": files.name,
        "digest": digest,
        "tower": tower,
        "dim": embedding_size(config),
    }
    details |= {"precision": precision, "device": where.type, **logit_scale(files, state)}
    if untrained is not None:
        details["untrained"] = untrained
    context_length = config.text_config.max_position_embeddings
    common = files.name, digest, tower, details["dim"], context_length, details, family
    if tower == "text":
        return Encoder(*common, model.to(where, DTYPES[precision]), tokenizer(files))
    processor = image_processor(files)
    details["preprocessing"] = preprocessing(processor)
    prepare = Pixels(processor, where, DTYPES[precision])
    quick = (
        compiled(model.to(where, DTYPES[precision]), config.vision_config, compile_for)
        if compile_for
        else None
    )
    details["compile"] = quick is not None
    if quick is not None:
        return Encoder(*common, quick, prepare, compile_for)
    if (where.type, precision) == ("cpu", "bf16") and packed(model, config.vision_config):
        details["packed"] = True
    return Encoder(*common, model.to(where, DTYPES[precision]), prepare)


def _device(name: str) -> torch.device:
    """The device of this name, which must be there."""
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    kind, colon, index = name.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (colon and not (kind == "cuda" and index.isdecimal())):
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:0", "mps"])
    here = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[kind]
    if int(index or 0) >= here:
        raise ClipkitError(
            f"device {name} must be there; PyTorch {torch.__version__} sees {here} of {kind}",
            "use auto",
        )
    return torch.device(name)


def _precision(name: str, device: torch.device) -> str:
    """The precision of this name; ``auto`` is the fastest that the device computes natively."""
    if name in DTYPES:
        return name
    if name != "auto":
        raise unknown("precision", name, ["auto", *DTYPES])
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "mps":
        return "fp16"
    return "bf16" if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() else "fp32"
