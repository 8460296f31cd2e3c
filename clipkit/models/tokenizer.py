"""Tokenize texts as a model's own tokenizer does."""

from __future__ import annotations

import base64
import contextlib
import html
import importlib.metadata
import json
import math
import re
import string
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers.normalizers import Normalizer

from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.models.families import END_TOKEN, ends_with_largest, family_of_tower
from clipkit.models.hub import ModelFiles
from clipkit.models.libraries import (
    import_library,
    is_installed,
    quiet_loading,
    rust_panics,
    single_line_errors,
)
from clipkit.prompts.texts import MAX_CHARACTERS, quote

# OpenAI's and OpenCLIP's code cleans a text by ftfy and html.unescape before it splits it into
# tokens; transformers' CLIPTokenizer does not. What ftfy 6.3 replaces or removes: curly quotes,
# ligatures, full-width and half-width forms, control characters. (It also repairs text that was
# decoded wrongly, such as "Ã©". Without ftfy, that is not looked for.)
REPLACED_BY_FTFY = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u02bc\u2018-\u201f\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06"
    "\uff01-\uffdc\uffe0-\uffee\u206a-\u206f\ufeff\ufff9-\ufffc]"
)
# SigLIP 2 was trained on texts that big_vision had cleaned: in lower case, without punctuation.
# transformers' tokenizer of its models with a fixed resolution, Gemma's, keeps both.
CANONICALIZING_TOKENIZERS = ("Gemma", "Siglip2")
NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))
# The most characters of one character after these normalizers; after the others, it is at most one.
GROWTH = {"BertNormalizer": 12, "ByteLevel": 4, "Lowercase": 2, "NFC": 3, "NFD": 4} | dict.fromkeys(
    ("NFKC", "NFKD"), 18
)
MAX_NORMALIZED = 10_000_000  # characters of a text for which its normalizer may need memory
TOKENIZED_AT_ONCE = 256  # texts: tokens with their places take far more memory than the texts
SENTENCEPIECE_PACKAGES = ("sentencepiece", "protobuf")
SENTENCEPIECE_FILES = {"spiece.model", "tokenizer.model", "sentencepiece.bpe.model"}
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
)


class TextTokenizer(ABC):
    """A model's tokenizer, whichever library it belongs to.

    `name` is the model's, for messages. The text tower takes `context_length` tokens, special ones
    included. `cleaning` says how texts are cleaned before they are split, or is None.
    """

    name: str
    context_length: int
    cleaning: str | None
    uses_ftfy = False
    batch_size = 256  # texts that are encoded at once
    tokenizer: Any

    @abstractmethod
    def clean(self, texts: Sequence[str], places: Sequence[str]) -> list[str]:
        """Return the texts that the other methods take.

        An error names the place of the first text that cleaning leaves empty.
        """

    @abstractmethod
    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Count the tokens of each text, special ones included: K texts -> (K,)."""

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the padded tokens (B, T) of B texts, cut to `context_length`."""

    def inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return what the text tower takes of B texts."""
        return {"input_ids": self.tokens(texts)}

    def check_growth(self, texts: Sequence[str], places: Sequence[str]) -> None:
        """Raise an error that names the place of the first text that normalization makes too long.

        Only texts that may grow so much are normalized here.
        """
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # in open_clip's
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", tokenizer), "normalizer", None)
        if not isinstance(normalizer, Normalizer):
            return
        factor = growth(json.loads(normalizer.__getstate__()))
        for text, place in zip(texts, places, strict=True):
            length = len(text) * factor
            got = f"up to {length:,}"
            if MAX_CHARACTERS < length <= MAX_NORMALIZED:
                with single_line_errors(f"tokenize with {self.name}"), rust_panics():
                    length = len(normalizer.normalize_str(text))
                got = f"{length:,}"
            if length > MAX_CHARACTERS:
                raise ClipkitError(
                    f"{place}: expected at most {MAX_CHARACTERS:,} characters after the normalizer "
                    f"of {self.name}, got {got}",
                    "check the normalizer in its tokenizer.json",
                )

    def check_lengths(self, texts: Sequence[str], places: Sequence[str]) -> None:
        """Raise an error that names the place of the first text that is too long, if one is."""
        lengths = self.lengths(texts)
        too_long = np.flatnonzero(lengths > self.context_length)
        if len(too_long):
            first = too_long[0]
            more = f" ({len(too_long)} prompts are too long)" if len(too_long) > 1 else ""
            raise ClipkitError(
                f"{places[first]}: expected at most {self.context_length} tokens, "
                f"got {lengths[first]}{more}",
                "shorten the prompt, or cut it with --truncate",
            )

    def warn_of_other_tokens(self, texts: Sequence[str]) -> None:
        """Warn once of texts that get other tokens than in the code the model was trained with."""
        return

    def cleaned_by_ftfy(self, texts: Sequence[str]) -> dict[str, Any] | None:
        """Return the version of ftfy and the number of texts whose words it changes, if any."""
        if not self.uses_ftfy:
            return None
        changed = 0
        for text in texts:
            words = unicodedata.normalize("NFC", text).split()  # as the tokenizer does
            changed += clean_as_openai(text).split() != words
        return {"ftfy": importlib.metadata.version("ftfy"), "prompts": changed} if changed else None

    def check_left(
        self, cleaned: Sequence[str], texts: Sequence[str], places: Sequence[str]
    ) -> None:
        """Raise an error that names the place of the first text that cleaning left empty."""
        for text, before, place in zip(cleaned, texts, places, strict=True):
            if before and not text:
                raise ClipkitError(
                    f"{place}: expected letters or digits, since {self.name} reads no "
                    f"punctuation or control characters, got {quote(before)}",
                    "keep them with --no-clean",
                )

    def check_vocabulary(self, tokens: torch.Tensor, vocabulary: int) -> None:
        """Refuse tokens that the text tower does not know."""
        if int(tokens.max()) >= vocabulary:
            raise ClipkitError(
                f"{self.name}: expected tokens below {vocabulary}, got {int(tokens.max())}",
                "check its tokenizer files: they seem to belong to another model",
            )


class Tokenizer(TextTokenizer):
    """A model's tokenizer of transformers with the limits of its text tower.

    `cleaning` names what `clean` does to texts; it is None if it does nothing.
    """

    def __init__(
        self, files: ModelFiles, model_config: Any, padding: str, *, clean: bool = True
    ) -> None:
        config = getattr(model_config, "text_config", model_config)
        self.name = files.name
        self.context_length = config.max_position_embeddings
        self.vocabulary: int = config.vocab_size
        self.padding = padding
        self.is_pooled_at_end = family_of_tower(config).pooled == END_TOKEN
        self.end: Any = getattr(config, "eos_token_id", None)
        self.is_end_largest = ends_with_largest(config)
        if self.is_pooled_at_end and not isinstance(self.end, int):
            raise ClipkitError(
                f"{self.name}: expected a number as eos_token_id in config.json, got {self.end!r}"
            )
        self.class_name = self._load(files)
        if not padding:  # the position of a text's first token may be that of padding plus one
            self.context_length = min(self.context_length, self.tokenizer.model_max_length)
        elif getattr(self.tokenizer, "padding_side", "right") == "left":
            console.warn(
                f"{self.name}: its tokenizer pads texts on the left, and the model was trained "
                'with padding on the right, which is used; expected padding_side "right" in '
                "tokenizer_config.json"
            )
        is_clip = self.class_name.startswith("CLIPTokenizer")
        self.uses_ftfy = clean and is_clip and is_installed("ftfy")
        # transformers 5.4 reads Gemma's tokenizer by a class of another name
        self.cleaning = None
        for name in (self.class_name, stored_class(files)):
            if clean and name.startswith(CANONICALIZING_TOKENIZERS):
                self.cleaning = "canonicalize"

    def _load(self, files: ModelFiles) -> str:
        """Load the tokenizer, and return the name of its class in transformers."""
        transformers = import_library("transformers")
        with tokenizer_errors(files), files.side_folder() as folder:
            auto: Any = transformers.AutoTokenizer
            self.tokenizer = auto.from_pretrained(folder, trust_remote_code=False)
        switch_dropout_off(files, self.tokenizer)
        return type(self.tokenizer).__name__

    @property
    def end_text(self) -> str:
        """The end token as text."""
        return str(self.tokenizer.eos_token)

    def clean(self, texts: Sequence[str], places: Sequence[str]) -> list[str]:
        """Clean texts as the model's training data were cleaned; none may be left empty."""
        if self.uses_ftfy:
            cleaned = [clean_as_openai(text) for text in texts]
        elif self.cleaning:
            cleaned = [canonicalize(text) for text in texts]
        else:
            return list(texts)
        self.check_left(cleaned, texts, places)
        return cleaned

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Count the tokens of each text, special ones included: K texts -> (K,)."""
        lengths: list[int] = []
        for start in range(0, len(texts), TOKENIZED_AT_ONCE):
            batch = list(texts[start : start + TOKENIZED_AT_ONCE])
            with single_line_errors(f"tokenize with {self.name}"), rust_panics():
                lengths += map(len, self._ids(batch))
        return np.array(lengths, np.int64)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text, special ones included."""
        rows: list[list[int]] = self.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        return rows

    def warn_of_other_tokens(self, texts: Sequence[str]) -> None:
        """Warn once if OpenAI's code would give some of the texts other tokens."""
        if self.uses_ftfy or not self.class_name.startswith("CLIPTokenizer"):
            return
        changed = [text for text in texts if is_cleaned_by_openai(text)]
        hint = "; hint: clean them as it does: pip install 'clipkit-vl[ftfy]'"
        if is_installed("ftfy"):  # and was refused
            hint = ""
        if changed:
            console.warn(
                f"{len(changed)} of {len(texts)} prompts get other tokens than in OpenAI's code, "
                "which replaces curly quotes, HTML entities, ligatures and full-width characters; "
                f"the first is {changed[0]!r}{hint}"
            )

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the padded tokens (B, T) of B texts, cut to `context_length`."""
        return self.inputs(texts)["input_ids"]

    def inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the tokens of B texts; with an attention mask, if the kind of model needs one.

        CLIP's pooled token cannot see the padding, and SigLIP must see it.
        """
        with single_line_errors(f"tokenize with {self.name}"), rust_panics():
            tokens, mask = self._padded(list(texts))
        self.check_vocabulary(tokens, self.vocabulary)
        if self.is_pooled_at_end:
            self._check_ends(texts, tokens, mask.sum(1))
        if self.padding:
            return {"input_ids": tokens}
        return {"input_ids": tokens, "attention_mask": mask}

    def _padded(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return padded tokens (B, T), cut to `context_length`, and their mask (B, T)."""
        encoded = self.tokenizer(
            texts,
            padding=self.padding or True,
            padding_side="right" if self.padding else None,
            truncation=True,
            max_length=self.context_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"]

    def _check_ends(
        self, texts: Sequence[str], tokens: torch.Tensor, lengths: torch.Tensor
    ) -> None:
        """Check that the model takes each embedding (B) from a prompt's last token: (B, T).

        Without an end token, it takes the first one: all prompts would then have one embedding.
        """
        is_end = tokens == self.end
        if self.is_end_largest:
            is_end = tokens == tokens.max(dim=1, keepdim=True).values
        (wrong,) = torch.nonzero(is_end.int().argmax(1) != lengths - 1, as_tuple=True)
        if len(wrong):
            row = int(wrong[0])
            last = tokens[row, : lengths[row]].tolist()[-8:]
            raise ClipkitError(
                f"{self.name}: expected the end token {self.end} once, as a prompt's last token, "
                f"got tokens that end in {last} for {quote(texts[row])}",
                f"take {self.end_text} out of the prompt, or correct eos_token_id in config.json",
            )


def switch_dropout_off(files: ModelFiles, tokenizer: Any) -> None:
    """Let a tokenizer of transformers split equal texts equally: BPE dropout is for training."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model: Any = getattr(backend, "model", None)
    if getattr(model, "dropout", None):
        model.dropout = None
        console.warn(
            f"{files.name}: tokenizer.json asks for BPE dropout, which gives random tokens; "
            "it is switched off"
        )


def growth(rule: dict[str, Any]) -> int:
    """Return how many characters a normalizer of tokenizer.json makes of one, at most.

    >>> growth({"type": "Replace", "pattern": {"String": "&"}, "content": " and "})
    6
    """
    kind = rule["type"]
    if kind == "Sequence":
        return math.prod(map(growth, rule["normalizers"]))
    if kind == "Replace":  # a pattern may also match between two characters
        return 1 + len(rule["content"])
    if kind == "Prepend":
        return 1 + len(rule["prepend"])
    if kind == "Precompiled":  # SentencePiece's table: the size of a trie, the trie, and texts
        table = base64.b64decode(rule["precompiled_charsmap"])
        replacements = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
        return 1 + max(map(len, replacements))
    return GROWTH.get(kind, 1)


def canonicalize(text: str) -> str:
    """Return a text in lower case without ASCII punctuation, as big_vision cleans SigLIP 2's.

    Underscores become spaces, and each run of spaces becomes one.

    >>> canonicalize("A photo of  a T-shirt, in the lawn_mower's style.")
    'a photo of a tshirt in the lawn mowers style'
    """
    return " ".join(text.translate(NO_PUNCTUATION).lower().split())


def is_cleaned_by_openai(text: str) -> bool:
    """Return whether OpenAI's code changes a text, other than its case and spaces.

    >>> [is_cleaned_by_openai(text) for text in ("it's", "it’s", "it&#39;s", "a ﬁsh", "R&B")]
    [False, True, True, True, False]
    """
    return html.unescape(text) != text or REPLACED_BY_FTFY.search(text) is not None


def clean_as_openai(text: str) -> str:
    """Clean a text as OpenAI's code does, except spaces, which the tokenizer cleans."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text  # importing ftfy takes longer than the prompts
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def stored_class(files: ModelFiles) -> str:
    """Return the class of the tokenizer that a model's files name; "" if they name none."""
    if not (files.folder / "tokenizer_config.json").is_file():
        return ""
    return str(files.read_json("tokenizer_config.json").get("tokenizer_class", ""))


@contextlib.contextmanager
def tokenizer_errors(files: ModelFiles) -> Iterator[None]:
    """Check that a folder holds a vocabulary, and turn what loading it raises into one line."""
    # without its vocabulary transformers 5 silently returns a tokenizer that knows no words
    present = {path.name for path in files.folder.iterdir() if path.is_file()}
    if not any(present.issuperset(vocabulary) for vocabulary in VOCABULARIES):
        raise ClipkitError(
            f"{files.name}: expected its tokenizer (tokenizer.json, or vocab.json and merges.txt), "
            "got none"
        )
    try:
        with quiet_loading(f"the tokenizer of {files.name}"), rust_panics():
            yield
    except ClipkitError as error:
        missing = [name for name in SENTENCEPIECE_PACKAGES if not is_installed(name)]
        if missing and present & SENTENCEPIECE_FILES:
            raise ClipkitError(
                f"{files.name}: expected the packages sentencepiece and protobuf, which its "
                f"tokenizer needs, got no {' and no '.join(missing)}",
                "install them: pip install 'clipkit-vl[siglip]'",
            ) from error
        raise
