"""CLIP's towers without transformers give the tokens and the bits that transformers gives."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import versions
from factories import clips
from factories.zoo import changed, fails_to_load, load
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.base.errors import ClipkitError
from clipkit.models import acceleration
from clipkit.models.hub import TINY, find
from clipkit.models.plain_clip import PlainClip, read_backend
from clipkit.models.preprocessing import CLIPImageProcessor

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


def is_known(folder, tower):
    return PlainClip.read_known(find(str(folder)), tower) is not None


def left_to_transformers(folder, tower, **options):
    """Load a tower as if none of its settings were known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainClip, "read_known", lambda *_: None)
        patch.setattr(CLIPImageProcessor, "read_known", lambda *_: None)
        return load(folder, tower, **options)


def assert_images_equal(folder, **options):
    """Compare embeddings of images, and all that a history records, with those by transformers."""
    assert is_known(folder, "image")
    ours = load(folder, **options)
    theirs = left_to_transformers(folder, "image", **options)
    assert (ours.details, ours.parts, ours.columns) == (
        theirs.details,
        theirs.parts,
        theirs.columns,
    )
    for images in (clips.noise_images(), clips.noise_images()[:1]):
        assert np.array_equal(ours.encode_images(images), theirs.encode_images(images))


def assert_bits_equal(folder, precision):
    """Compare an encoder's embeddings with those of plain transformers, for the same tokens."""
    encoder = load(folder, "text", precision=precision, clean=False)
    assert is_known(folder, "text")
    dtype = acceleration.DTYPES[precision]
    model = clips.in_memory(transformers.CLIPModel.from_pretrained(folder, dtype=dtype))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings
    options = {"padding": True, "truncation": True, "max_length": length, "return_tensors": "pt"}
    for texts in (TEXTS, TEXTS[:1]):
        tokens = tokenizer(texts, **options)
        with torch.inference_mode():
            outputs = model.get_text_features(input_ids=tokens["input_ids"])
        expected = getattr(outputs, "pooler_output", outputs).float().numpy()
        assert np.array_equal(encoder.encode_texts(texts, truncate=True), expected)


# the towers


CHANGES = {
    "none": {},
    "gelu": {"hidden_act": "gelu", "num_attention_heads": 1},
    "tanh": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3},
    "relu": {"hidden_act": "relu", "num_hidden_layers": 3, "intermediate_size": 40},
    "width": {"hidden_size": 96, "num_attention_heads": 6, "max_position_embeddings": 20},
    "tokens": {"eos_token_id": 2, "bos_token_id": 0},
}


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("changes", CHANGES)
def test_embeddings_have_the_bits_of_transformers(changes, precision, tmp_path):
    config = transformers.CLIPConfig(
        text_config=clips.SMALL_TOWER | CHANGES[changes],
        vision_config=clips.SMALL_VISION | CHANGES[changes],
        projection_dim=24,
    )
    folder = clips.write_model(tmp_path / "model", transformers.CLIPModel, config, 0)
    assert_bits_equal(folder, precision)
    assert_images_equal(folder, precision=precision)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [{"projection": False}, {"layers": "all"}, {"layers": [0, -1], "pool": "mean", "norm": True}],
    ids=["no projection", "all layers", "two layers"],
)
def test_features_before_the_projection_have_the_bits_of_transformers(options, precision):
    assert_images_equal(TINY, precision=precision, **options)


@versions.TINY_TOKENS
def test_layers_of_texts_have_the_bits_of_transformers():
    options = {"layers": [0, 1, -1], "norm": True}
    ours, theirs = (make(TINY, "text", **options) for make in (load, left_to_transformers))
    assert ours.details == theirs.details
    assert np.array_equal(ours.encode_texts(TEXTS[:3]), theirs.encode_texts(TEXTS[:3]))


def test_a_full_size_model_has_the_bits_of_transformers(vit_b32_dir):
    assert_bits_equal(vit_b32_dir, "fp32")
    for precision in ("fp32", "bf16"):
        assert_images_equal(vit_b32_dir, precision=precision)


with_text = functools.partial(changed, "config.json", "text_config")
with_vision = functools.partial(changed, "config.json", "vision_config")
with_config = functools.partial(changed, "config.json")


def without(name):
    def edit(config):
        config.pop(name, None)
        config["text_config"].pop(name, None)

    return lambda folder: clips.edit_json(folder / "config.json", edit)


def second_text_config(folder):
    clips.edit_json(folder / "config.json", lambda c: c.update(text_config_dict=c["text_config"]))


UNKNOWN_CONFIGS = {
    "no width": without("hidden_size"),
    "no projection_dim": without("projection_dim"),
    "other activation": with_text(hidden_act="gelu_new"),
    "eager attention": with_text(attn_implementation="eager"),
    "eager attention of patches": with_vision(attn_implementation="eager"),
    "second text_config": second_text_config,
}


@pytest.fixture(scope="module")
def default_width(tmp_path_factory):
    """A model of the widths that a configuration without them stands for."""
    return clips.tiny_clip(tmp_path_factory.mktemp("models") / "model", width=512, dim=512)


@pytest.mark.long
@pytest.mark.parametrize("edit", UNKNOWN_CONFIGS.values(), ids=UNKNOWN_CONFIGS)
def test_a_configuration_that_is_not_known_is_left_to_transformers(edit, default_width, tmp_path):
    folder = shutil.copytree(default_width, tmp_path / "model")
    edit(folder)
    assert not is_known(folder, "text")
    assert not is_known(folder, "image")
    assert load(folder, "text").encode_texts(TEXTS[:2]).shape == (2, 512)


BROKEN_CONFIGS = {
    "image layers": with_vision(num_hidden_layers=0),
    "image activation": with_vision(hidden_act="nothing"),
    "padding token": with_text(pad_token_id=True),
    "no vision": with_config(vision_config="junk"),
    "labels": with_config(id2label={"a": 1}),
    "type of numbers": with_config(dtype="junk"),
    "scale": with_config(logit_scale_init_value=[1]),
    "heads": with_text(num_attention_heads=3),
    "layers": with_text(num_hidden_layers=0),
    "type": with_text(hidden_size="32"),
    "activations": with_text(hidden_act=["gelu"]),
    "no text": with_config(text_config=[]),
    "empty text_config_dict": with_config(text_config_dict={}),  # stands for the default sizes
}


@pytest.mark.parametrize("edit", BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS)
def test_errors_in_a_configuration_are_those_of_transformers(edit, tiny_clip_dir, tmp_path):
    folder = shutil.copytree(tiny_clip_dir, tmp_path / "model")
    edit(folder)
    with pytest.raises(ClipkitError) as by_transformers:
        left_to_transformers(folder, "text")
    assert fails_to_load(folder, ".", "text").message == by_transformers.value.message


@pytest.mark.parametrize(
    ("tower", "edit"),
    [("image", with_vision(patch_size=10**20)), ("text", with_text(vocab_size=10**20))],
)
def test_a_size_beyond_all_numbers_is_refused_in_one_line(tower, edit, tiny_clip_dir, tmp_path):
    folder = shutil.copytree(tiny_clip_dir, tmp_path / "model")
    edit(folder)
    fails_to_load(folder, "cannot load the architecture of ", tower)


# the image processor


processor = functools.partial(changed, "preprocessor_config.json")
UNKNOWN_PROCESSORS = {
    "another class": processor(image_processor_type="SiglipImageProcessor"),
    "Lanczos": processor(resample=1),
    "no rescaling": processor(do_rescale=False),
    "padding": processor(do_pad=True),
    "a list": processor(size=[40, 30]),
    "a true number": processor(resample=True),
    "two edges": processor(size={"shortest_edge": 32, "longest_edge": 64}),
    "an edge": processor(crop_size={"shortest_edge": 32}),
    "no resampling": processor(resample=None),
}


@pytest.mark.parametrize("edit", UNKNOWN_PROCESSORS.values(), ids=UNKNOWN_PROCESSORS)
def test_a_processor_that_is_not_known_is_left_to_transformers(edit, tiny_clip_dir, tmp_path):
    path = shutil.copy(tiny_clip_dir / "preprocessor_config.json", tmp_path)
    assert CLIPImageProcessor.read_known(json.loads(Path(path).read_text())) is not None
    edit(tmp_path)
    assert CLIPImageProcessor.read_known(json.loads(Path(path).read_text())) is None


# the tokenizer


def published_form(folder):
    """Write the tokenizer as the first published models have it, with their special tokens."""
    clips.tiny_clip(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    names = {"bos_token": clips.START, "eos_token": clips.END, "unk_token": clips.END}
    named = {name: {"content": text, **flags} for name, text in names.items()}
    clips.edit_json(
        folder / "tokenizer.json", lambda c: c["added_tokens"][0].update(normalized=True)
    )
    clips.write_json(folder / "special_tokens_map.json", **named, pad_token=clips.END)
    settings = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
    settings |= {"pad_token": clips.END, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    for name, token in named.items():
        settings[name] = {**token, "__type": "AddedToken"}
    clips.write_json(folder / "tokenizer_config.json", **settings)
    return folder


def transformers_4_form(folder):
    """Write the tokenizer as transformers 4 saves it, with its tokens by number."""
    published_form(folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    by_number = {str(token.pop("id")): token for token in tokens}
    names = {"bos_token": clips.START, "eos_token": clips.END, "unk_token": clips.END}
    changed("tokenizer_config.json", added_tokens_decoder=by_number, **names)(folder)
    return folder


FORMS = {
    "tiny": lambda folder: TINY,
    "vocab.json": clips.tiny_clip,
    "openai": clips.openai_form,
    "published": published_form,
    "transformers 4": transformers_4_form,
    "transformers 5": clips.transformers_5_form,
}


@pytest.fixture(scope="module", params=FORMS)
def form(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    return FORMS[request.param](folder)


@pytest.fixture(scope="module")
def tokenizers(form):
    """The tokenizer of clipkit and that of transformers."""
    own = read_backend(find(str(form)))
    assert own is not None
    return own, transformers.AutoTokenizer.from_pretrained(form)


@pytest.mark.long
def test_tokens_are_those_of_transformers(tokenizers):
    own, theirs = tokenizers
    texts = TEXTS + WITH_SPECIAL_TOKENS
    assert [row.ids for row in own.encode_batch(texts)] == theirs(texts)["input_ids"]


@pytest.mark.long
@settings(max_examples=200)
@given(text=st.text() | st.from_regex(r"(<\|(start|END)oftext\|>|\w|\s)*"))
def test_tokens_of_any_text_are_those_of_transformers(tokenizers, text):
    own, theirs = tokenizers
    assert own.encode(text).ids == theirs(text)["input_ids"]


@pytest.mark.long
def test_embeddings_of_each_form_have_the_bits_of_transformers(form):
    assert_bits_equal(form, "fp32")
    assert_images_equal(form)


settings_of = functools.partial(changed, "tokenizer_config.json")
UNKNOWN_TOKENIZERS = {
    "a setting": settings_of(add_bos_token=False),
    "padding": settings_of(pad_token="!"),
    "another class": settings_of(tokenizer_class="GPT2Tokenizer"),
    "more tokens": lambda folder: clips.write_json(
        folder / "added_tokens.json", **{"<new>": 49408}
    ),
    "properties": lambda folder: clips.write_json(
        folder / "special_tokens_map.json", bos_token={"content": clips.START, "lstrip": True}
    ),
    "no merges": lambda folder: (folder / "merges.txt").unlink(),
}


@pytest.mark.parametrize("edit", UNKNOWN_TOKENIZERS.values(), ids=UNKNOWN_TOKENIZERS)
def test_a_tokenizer_that_is_not_known_is_left_to_transformers(edit, tiny_clip_dir, tmp_path):
    folder = shutil.copytree(tiny_clip_dir, tmp_path / "model")
    assert read_backend(find(str(folder))) is not None
    edit(folder)
    assert read_backend(find(str(folder))) is None


@pytest.mark.long
def test_rules_that_would_crash_tokenizers_are_left_to_transformers(tmp_path):
    published_form(tmp_path)
    assert read_backend(find(str(tmp_path))) is not None
    changed("tokenizer.json", "model", continuing_subword_prefix="##")(tmp_path)
    assert read_backend(find(str(tmp_path))) is None


@pytest.mark.long
def test_bpe_dropout_is_switched_off(tmp_path, capsys):
    folder = published_form(tmp_path)
    expected = load(folder, "text", clean=False).encode_texts(TEXTS[:4])
    changed("tokenizer.json", "model", dropout=0.9)(folder)
    settings_of(tokenizer_class="PreTrainedTokenizerFast")(folder)
    np.testing.assert_array_equal(
        load(folder, "text", clean=False).encode_texts(TEXTS[:4]), expected
    )
    assert "asks for BPE dropout, which gives random tokens" in capsys.readouterr().err
