"""Split texts into CLIP's tokens with the package tokenizers, without transformers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from clipkit.models.hub import ModelFiles
from clipkit.models.tokenizer import Tokenizer, stored_class

START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
CLIP_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")  # their rules are those of the class
OTHER_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # theirs are in tokenizer.json
# Other settings of tokenizer_config.json that change no token
IGNORED = {
    *("tokenizer_class", "model_max_length", "name_or_path", "special_tokens_map_file", "backend"),
    *("do_lower_case", "errors", "clean_up_tokenization_spaces", "is_local", "local_files_only"),
    *("processor_class", "added_tokens_decoder"),
}
# Rules of a BPE that CLIP's does not have
OTHER_RULES = ("continuing_subword_prefix", "dropout", "fuse_unk", "byte_fallback", "ignore_merges")
SUFFIX = "</w>"
SPLIT = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
MAX_VOCABULARY = 100_000  # transformers changes the rules of larger ones


class ClipTokenizer(Tokenizer):
    """CLIP's tokenizer, as `read_backend` returns it."""

    end_text = END

    def __init__(self, files: ModelFiles, model_config: Any, backend: Backend) -> None:
        self.tokenizer: Any = backend
        super().__init__(files, model_config, "longest")

    def _load(self, files: ModelFiles) -> str:
        return stored_class(files)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def _padded(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.tokenizer.enable_truncation(self.context_length)
        self.tokenizer.enable_padding(pad_id=self.tokenizer.token_to_id(END), pad_token=END)
        encodings = self.tokenizer.encode_batch(texts)
        tokens = torch.tensor([encoding.ids for encoding in encodings])
        return tokens, torch.tensor([encoding.attention_mask for encoding in encodings])


def read_backend(files: ModelFiles) -> Backend | None:
    """Read a tokenizer; return None if transformers has to read it, or to say what is wrong."""
    with contextlib.suppress(Exception):  # such as those of tokenizers, which have no common base
        if _has_other_rules(files):
            return None
        settings = files.read_json("tokenizer_config.json")
        backend = _read_vocabulary(files.folder, settings)
        is_known = _has_known_settings(files, settings) and _has_known_tokens(backend, settings)
        name = settings["tokenizer_class"]
        if is_known and name in CLIP_CLASSES and _is_bpe_of_clip(backend.model):
            return _with_rules_of_clip(backend)
        if is_known and name in OTHER_CLASSES and backend.post_processor is not None:
            return backend
    return None


def _has_other_rules(files: ModelFiles) -> bool:
    """Tell whether tokenizer.json has rules that CLIP's BPE has not.

    With some of them, tokenizers ends the process, where transformers drops them.
    """
    if not (files.folder / "tokenizer.json").exists():
        return False
    model = files.read_json("tokenizer.json")["model"]
    return any(model.get(rule) for rule in OTHER_RULES)


def _read_vocabulary(folder: Path, settings: dict[str, Any]) -> Backend:
    """Read tokenizer.json, or the two files of older models."""
    if (folder / "tokenizer.json").exists():
        return Backend.from_file(str(folder / "tokenizer.json"))
    files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
    backend = Backend(BPE.from_file(*files, unk_token=END, end_of_word_suffix=SUFFIX))
    backend.add_special_tokens([settings["bos_token"], settings["eos_token"]])
    return backend


def _has_known_settings(files: ModelFiles, settings: dict[str, Any]) -> bool:
    """Tell whether the special tokens are the usual ones, and no other setting changes a token."""
    settings = {name: settings[name] for name in settings.keys() - IGNORED}
    if (files.folder / "special_tokens_map.json").exists():
        settings |= files.read_json("special_tokens_map.json")
    for name, usual in SPECIAL_TOKENS.items():
        token = settings.pop(name, usual)
        if isinstance(token, dict) and (files.folder / "tokenizer.json").exists():
            token = token["content"]  # that file has its other properties
        if token != usual:
            return False
    is_known = not settings.pop("add_prefix_space", False) and not settings
    return is_known and not (files.folder / "added_tokens.json").exists()


def _has_known_tokens(backend: Backend, settings: dict[str, Any]) -> bool:
    """Tell whether a vocabulary has the special tokens, and the settings add no other ones."""
    added = {number: repr(token) for number, token in backend.get_added_tokens_decoder().items()}
    expected = settings.get("added_tokens_decoder", {}).items()
    if added.keys() != {backend.token_to_id(START), backend.token_to_id(END)}:
        return False
    for number, token in expected:
        if added.get(int(number)) != repr(AddedToken(**token)):
            return False
    return backend.get_vocab_size() < MAX_VOCABULARY


def _is_bpe_of_clip(model: Any) -> bool:
    """Tell whether a file's BPE marks words as CLIP's does."""
    is_bpe: bool = model.unk_token == END and model.end_of_word_suffix == SUFFIX
    return is_bpe


def _with_rules_of_clip(stored: Any) -> Backend:
    """Return a tokenizer with the rules of CLIP, whatever the rules in a file are."""
    backend = Backend(stored.model)
    backend.add_tokens(list(stored.get_added_tokens_decoder().values()))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(SPLIT), "removed", invert=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    end, start = ((token, stored.token_to_id(token)) for token in (END, START))
    backend.post_processor = processors.RobertaProcessing(end, start)
    return backend
