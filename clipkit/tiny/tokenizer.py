"""The bundled model's tokenizer: any text can be written in it, and the words of `shapes` are short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..shapes.captions import captions

CONTEXT, VOCABULARY = 77, 768
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(folder: Path) -> Any:
    """Learn a byte-level BPE from captions and write it to a folder in Hugging Face form.

    Any string can be tokenised, since every byte is a token. The special tokens come last: a text ends with the largest
    id, where every version of `CLIPModel` looks for its embedding.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), spaces, normalizers.Strip(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2, initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(captions(np.arange(50_000), split="tokenizer", seed=0), trainer)
    tokenizer.add_special_tokens([START, END])
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=ends
    )
    fast: Any = PreTrainedTokenizerFast
    wrapped = fast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
    )
    wrapped.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    plain = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
    }
    settings.write_text(
        json.dumps({**plain, "model_max_length": CONTEXT}, indent=2) + "\n"
    )  # as transformers 4 reads it
    return wrapped
