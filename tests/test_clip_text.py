"""CLIP's text tower without transformers gives the tokens and the bits that transformers gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clip_factory import (
    END,
    SMALL_TOWER,
    START,
    edit_json,
    openai_form,
    some_quick,
    tiny_clip,
    transformers_5_form,
    write_json,
    write_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit import models
from clipkit.base.errors import ClipkitError
from clipkit.models.clip_text import ClipTokenizer, TextTower, read_backend
from clipkit.models.hub import TINY, find

TEXTS = [
    "a photo of a cat",
    "A  photo\tof\nit's two T-shirts, 1234 <b>",
    "naïve caf\u00e9 cafe\u0301 \u212b ﬁ \u1100\u1161\u11a8 東京 🙂‍↔️ ﷽ \u00a0x\u2003y\u200bz",
    "they'll we've I'm you're he'd 'S Ⅷ ² ½ İ ſ K",
    "x" * 90,
    "word " * 90,
    "",
]
WITH_SPECIAL_TOKENS = [
    *("a <|startoftext|> b", "<|StartOfText|>c", "x<|endoftext|>", "<|ENDOFTEXT|> <|endof"),
    *("<|startoftext|><|endoftext|>d", " <|endoftext|>  e", "\u00e9<|startoftext|>\u0301"),
]


def load(folder: Path, **options: Any) -> models.Encoder:
    return models.load(str(folder), tower="text", device="cpu", **options)


def is_own(encoder: models.Encoder) -> bool:
    """Tell whether the tower is clipkit's own."""
    return isinstance(encoder._tower.model, TextTower)


def assert_bits_equal(folder: Path, precision: str) -> None:
    """Compare an encoder's embeddings with those of plain transformers, for the same tokens."""
    encoder = load(folder, precision=precision)
    assert is_own(encoder)
    model = transformers.CLIPModel.from_pretrained(
        folder, dtype=models.acceleration.DTYPES[precision]
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    for texts in (TEXTS, TEXTS[:1]):
        tokens = tokenizer(texts, max_length=encoder._tokenizer.context_length, **options)
        with torch.inference_mode():
            outputs = model.eval().get_text_features(input_ids=tokens["input_ids"])
        expected = getattr(outputs, "pooler_output", outputs).float().numpy()
        assert np.array_equal(encoder.encode_texts(texts, truncate=True), expected)


# the tower


@pytest.mark.long
@pytest.mark.parametrize("precision", some_quick(["fp32", "bf16", "fp16"], ["fp32"]))
@pytest.mark.parametrize(
    "changes",
    some_quick(
        [
            {},
            {"hidden_act": "gelu", "num_attention_heads": 1},
            {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3},
            {"hidden_act": "relu", "num_hidden_layers": 3, "intermediate_size": 40},
            {"hidden_size": 96, "num_attention_heads": 6, "max_position_embeddings": 20},
            {"eos_token_id": 2, "bos_token_id": 0},
        ],
        [{}],
    ),
    ids=str,
)
def test_embeddings_have_the_bits_of_transformers(
    changes: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    text = SMALL_TOWER | {"hidden_size": 32} | changes
    vision = SMALL_TOWER | {"hidden_size": 32, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    folder = write_model(tmp_path / "model", transformers.CLIPModel, config, 0)
    assert_bits_equal(folder, precision)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bundled_model_has_the_bits_of_transformers(precision: str) -> None:
    assert_bits_equal(TINY, precision)


@pytest.mark.long
def test_a_full_size_model_has_the_bits_of_transformers(vit_b32_dir: Path) -> None:
    assert_bits_equal(vit_b32_dir, "fp32")


def without(*names: str) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        for name in names:
            config.pop(name, None)
            config["text_config"].pop(name, None)

    return edit


def with_text(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["text_config"].update(changes)


UNKNOWN_CONFIGS = {
    "no width": without("hidden_size"),
    "no projection_dim": without("projection_dim"),
    "other activation": with_text(hidden_act="gelu_new"),
    "eager attention": with_text(attn_implementation="eager"),
    "second text_config": lambda config: config.update(text_config_dict=config["text_config"]),
}


@pytest.fixture(scope="module")
def default_width(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the widths that a configuration without them stands for."""
    return tiny_clip(tmp_path_factory.mktemp("models") / "model", width=512, dim=512)


@pytest.mark.long
@pytest.mark.parametrize("edit", UNKNOWN_CONFIGS.values(), ids=UNKNOWN_CONFIGS)
def test_a_configuration_that_is_not_known_is_left_to_transformers(
    edit: Callable[[dict[str, Any]], None], default_width: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(default_width, tmp_path / "model")
    edit_json(folder / "config.json", edit)
    encoder = load(folder)
    assert not is_own(encoder)
    assert encoder.encode_texts(TEXTS[:2]).shape == (2, 512)


@pytest.mark.long
def test_layers_and_controls_are_left_to_transformers(tiny_clip_dir: Path) -> None:
    assert is_own(load(tiny_clip_dir))
    assert not isinstance(load(tiny_clip_dir, layers=[1])._tower.model, TextTower)
    assert not is_own(load(tiny_clip_dir, untrained=1))


def with_vision(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["vision_config"].update(changes)


BROKEN_CONFIGS = {
    "image layers": with_vision(num_hidden_layers=0),
    "image activation": with_vision(hidden_act="nothing"),
    "dropout": with_text(attention_dropout="junk"),
    "padding token": with_text(pad_token_id=True),
    "no vision": lambda config: config.update(vision_config="junk"),
    "labels": lambda config: config.update(id2label={"a": 1}),
    "type of numbers": lambda config: config.update(dtype="junk"),
    "scale": lambda config: config.update(logit_scale_init_value=[1]),
    "heads": with_text(num_attention_heads=3),
    "layers": with_text(num_hidden_layers=0),
    "type": with_text(hidden_size="32"),
    "activation": with_text(hidden_act="nothing"),
    "activations": with_text(hidden_act=["gelu"]),
    "no text": lambda config: config.update(text_config=[]),
    # with which transformers takes the default sizes
    "empty text_config_dict": lambda config: config.update(text_config_dict={}),
}


@pytest.mark.parametrize("edit", BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS)
def test_errors_in_a_configuration_are_those_of_transformers(
    edit: Callable[[dict[str, Any]], None], tiny_clip_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_clip_dir, tmp_path / "model")
    edit_json(folder / "config.json", edit)
    with pytest.raises(ClipkitError) as by_transformers:
        load(folder, layers=[1])
    with pytest.raises(ClipkitError) as own:
        load(folder)
    assert own.value.message == by_transformers.value.message


# the tokenizer


def published_form(folder: Path) -> Path:
    """Write the tokenizer as the first published models have it, with their special tokens."""
    tiny_clip(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))

    def token(text: str, **more: Any) -> dict[str, Any]:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
        return {"content": text, **flags, **more}

    def edit(content: dict[str, Any]) -> None:
        content["added_tokens"][0]["normalized"] = True

    edit_json(folder / "tokenizer.json", edit)
    named = {"bos_token": token(START), "eos_token": token(END), "unk_token": token(END)}
    write_json(folder / "special_tokens_map.json", **named, pad_token=END)
    typed = {name: value | {"__type": "AddedToken"} for name, value in named.items()}
    write_json(
        folder / "tokenizer_config.json",
        **typed,
        pad_token=END,
        add_prefix_space=False,
        do_lower_case=True,
        errors="replace",
        model_max_length=77,
        tokenizer_class="CLIPTokenizer",
    )
    return folder


def transformers_4_form(folder: Path) -> Path:
    """Write the tokenizer as transformers 4 saves it, with its tokens by number."""
    published_form(folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    by_number = {str(token.pop("id")): token for token in tokens}
    edit_json(
        folder / "tokenizer_config.json",
        lambda config: config.update(
            added_tokens_decoder=by_number, bos_token=START, eos_token=END, unk_token=END
        ),
    )
    return folder


FORMS = {
    "tiny": lambda folder: TINY,
    "vocab.json": tiny_clip,
    "openai": openai_form,
    "published": published_form,
    "transformers 4": transformers_4_form,
    "transformers 5": transformers_5_form,
}


@pytest.fixture(scope="module", params=some_quick(FORMS, ["tiny", "published"]))
def form(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    return FORMS[request.param](folder)


@pytest.fixture(scope="module")
def tokenizers(form: Path) -> tuple[Any, Any]:
    """The tokenizer of clipkit and that of transformers."""
    own = read_backend(find(str(form)))
    assert own is not None
    return own, transformers.AutoTokenizer.from_pretrained(form)


@pytest.mark.long
def test_tokens_are_those_of_transformers(tokenizers: tuple[Any, Any]) -> None:
    own, theirs = tokenizers
    texts = TEXTS + WITH_SPECIAL_TOKENS
    assert [row.ids for row in own.encode_batch(texts)] == theirs(texts)["input_ids"]


@pytest.mark.long
@settings(max_examples=200)
@given(text=st.text() | st.from_regex(r"(<\|(start|END)oftext\|>|\w|\s)*"))
def test_tokens_of_any_text_are_those_of_transformers(
    tokenizers: tuple[Any, Any], text: str
) -> None:
    own, theirs = tokenizers
    assert own.encode(text).ids == theirs(text)["input_ids"]


@pytest.mark.long
def test_padded_and_cut_tokens_are_those_of_transformers(form: Path) -> None:
    own = load(form)._tokenizer
    theirs = load(form, untrained=1)._tokenizer
    assert isinstance(own, ClipTokenizer)
    assert not isinstance(theirs, ClipTokenizer)
    assert torch.equal(own.tokens(TEXTS), theirs.tokens(TEXTS))
    assert np.array_equal(own.lengths(TEXTS), theirs.lengths(TEXTS))
    assert own.cleaning is theirs.cleaning is None
    with pytest.raises(ClipkitError, match="expected the end token") as error:
        theirs.tokens(["a <|endoftext|> b"])
    with pytest.raises(ClipkitError) as own_error:
        own.tokens(["a <|endoftext|> b"])
    assert (own_error.value.message, own_error.value.hint) == (
        error.value.message,
        error.value.hint,
    )


UNKNOWN_TOKENIZERS: dict[str, Callable[[Path], Any]] = {
    "a setting": lambda folder: edit_json(
        folder / "tokenizer_config.json", lambda config: config.update(add_bos_token=False)
    ),
    "padding": lambda folder: edit_json(
        folder / "tokenizer_config.json", lambda config: config.update(pad_token="!")
    ),
    "another class": lambda folder: edit_json(
        folder / "tokenizer_config.json",
        lambda config: config.update(tokenizer_class="GPT2Tokenizer"),
    ),
    "more tokens": lambda folder: write_json(folder / "added_tokens.json", **{"<new>": 49408}),
    "properties": lambda folder: write_json(
        folder / "special_tokens_map.json", bos_token={"content": START, "lstrip": True}
    ),
    "no merges": lambda folder: (folder / "merges.txt").unlink(),
}


@pytest.mark.parametrize("edit", UNKNOWN_TOKENIZERS.values(), ids=UNKNOWN_TOKENIZERS)
def test_a_tokenizer_that_is_not_known_is_left_to_transformers(
    edit: Callable[[Path], Any], tiny_clip_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_clip_dir, tmp_path / "model")
    assert read_backend(find(str(folder))) is not None
    edit(folder)
    assert read_backend(find(str(folder))) is None


@pytest.mark.long
def test_rules_that_would_crash_tokenizers_are_left_to_transformers(tmp_path: Path) -> None:
    published_form(tmp_path)
    assert read_backend(find(str(tmp_path))) is not None
    edit_json(
        tmp_path / "tokenizer.json",
        lambda content: content["model"].update(continuing_subword_prefix="##"),
    )
    assert read_backend(find(str(tmp_path))) is None


@pytest.mark.long
def test_bpe_dropout_is_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = published_form(tmp_path)
    expected = load(folder).encode_texts(TEXTS[:4])
    edit_json(folder / "tokenizer.json", lambda content: content["model"].update(dropout=0.9))
    edit_json(
        folder / "tokenizer_config.json",
        lambda config: config.update(tokenizer_class="PreTrainedTokenizerFast"),
    )
    np.testing.assert_array_equal(load(folder).encode_texts(TEXTS[:4]), expected)
    assert "asks for BPE dropout, which gives random tokens" in capsys.readouterr().err
