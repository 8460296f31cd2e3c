"""Train the tokenizer of the bundled model on the captions of `shapes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from training.captions import captions

CONTEXT, VOCABULARY = 77, 768
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(folder: Path) -> Any:
    """Learn a byte-level BPE from captions; write it as transformers' tokenizer and return it.

    Every byte is a token, so any string can be tokenised. The special tokens come last: a text ends
    with the largest id, where every version of `CLIPModel` looks for its embedding.
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
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions(np.arange(50_000), split="tokenizer", seed=0), trainer)
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)],
    )
    special_tokens = {"bos_token": START, "eos_token": END, "pad_token": END}
    tokenizer_class: Any = PreTrainedTokenizerFast
    wrapped = tokenizer_class(
        tokenizer_object=tokenizer, model_max_length=CONTEXT, **special_tokens
    )
    wrapped.save_pretrained(folder)
    # transformers 5 writes a configuration that transformers 4 does not read
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens,
        "model_max_length": CONTEXT,
    }
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(settings, indent=2) + "\n")
    return wrapped
