"""models: towers, preprocessing, tokens and precision, compared with transformers and open_clip."""

import functools
import hashlib
import json
import math
import os
import re
import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from factories import clips
from factories.zoo import changed, fails_to_load, load, stored, without_tensor
from PIL import Image
from safetensors.torch import load_file, save_file
from shell import ok
from torchvision import transforms
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel

from clipkit import embedding, features, models
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.models import hub
from clipkit.models import tokenizer as tokenizer_module
from clipkit.models.acceleration import choose_precision
from clipkit.models.hub import TINY, combine_digests, find
from clipkit.models.tokenizer import is_cleaned_by_openai

TEXTS = [
    "a photo of a cat",
    "",
    "Déjà vu, über-cool!!",
    "a " * 30,
    "naïve  café\tand 3.14 — it's 12 o'clock 🙂",
    "the end",
]
FORMS = ["tiny_clip_dir", "old_form_dir", "new_form_dir", "siglip_dir"]


@pytest.fixture(scope="module")
def old_form_dir(tmp_path_factory):
    return clips.openai_form(tmp_path_factory.mktemp("models") / "old-form")


@pytest.fixture(scope="module")
def new_form_dir(tmp_path_factory):
    return clips.transformers_5_form(tmp_path_factory.mktemp("models") / "new-form")


@pytest.fixture(scope="module")
def siglip_dir(tmp_path_factory):
    return clips.tiny_siglip(tmp_path_factory.mktemp("models") / "siglip")


@pytest.fixture(scope="module")
def images():
    return clips.noise_images()


@pytest.fixture(params=FORMS)
def form(request):
    """Each form of a model in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def copied(tiny_clip_dir, tmp_path):
    """A copy of the small model, to be damaged."""
    return shutil.copytree(tiny_clip_dir, tmp_path / "model")


def encode(encoder, images):
    """Encode the images or, by a text tower, TEXTS."""
    return encoder.encode_texts(TEXTS) if encoder.tower == "text" else encoder.encode_images(images)


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# features


def features_of_a_script(folder, images, texts):
    """Run the whole model by plain transformers on one image and one text at a time."""
    is_siglip = "siglip" in folder.name
    model = clips.in_memory((SiglipModel if is_siglip else CLIPModel).from_pretrained(folder))
    processor = AutoImageProcessor.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if is_siglip else False

    def rows(method, inputs):
        with torch.no_grad():
            outputs = [method(**one) for one in inputs]
        return torch.cat([getattr(output, "pooler_output", output) for output in outputs]).numpy()

    pixels = [processor(images=image, return_tensors="pt") for image in images]
    tokens = [tokenizer(text, padding=padding, return_tensors="pt")["input_ids"] for text in texts]
    return (
        rows(model.get_image_features, pixels),
        rows(model.get_text_features, [{"input_ids": row} for row in tokens]),
    )


def assert_features_equal(folder, images, texts):
    image, text = load(folder), load(folder, "text")
    actual = image.encode_images(image.preprocess(images)), text.encode_texts(texts)
    for rows, expected in zip(actual, features_of_a_script(folder, images, texts), strict=True):
        assert (rows.dtype, rows.shape) == (np.float32, expected.shape)
        assert rows.shape[1] == image.dim
        np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-4)
        assert clips.cosines(rows, expected).min() >= 0.99999


@pytest.mark.long
def test_features_equal_plain_transformers(form, images):
    assert_features_equal(form, images, TEXTS)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("form", ["tiny_clip_dir", "siglip_dir"], indirect=True)
@pytest.mark.long
def test_half_precision_is_close_to_full(form, tower, precision, images):
    expected = encode(load(form, tower), images)
    half = load(form, tower, precision=precision)
    actual = encode(half, images)
    assert half.details["precision"] == precision
    assert actual.dtype == np.float32
    assert not np.array_equal(actual, expected)
    assert clips.cosines(actual, expected).min() >= 0.999


def test_full_precision_whatever_dtype_the_config_names(copied, images):
    expected = encode(load(copied), images)
    for section in ((), ("vision_config",), ("text_config",)):
        changed("config.json", *section, dtype="float16", torch_dtype="float16")(copied)
    np.testing.assert_array_equal(encode(load(copied), images), expected)


def test_weights_may_be_split_over_files(copied):
    expected = load(copied, "text").encode_texts(TEXTS)
    model = CLIPModel.from_pretrained(copied)
    (copied / "model.safetensors").unlink()
    model.save_pretrained(copied, max_shard_size="5MB")
    encoder = load(copied, "text")
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), expected)
    files = sorted(copied.glob("model-*.safetensors"))
    assert len(files) > 1
    assert encoder.details["weights"] == sha256(b"".join(map(Path.read_bytes, files)))


@pytest.mark.long
def test_the_same_weights_give_the_same_bytes_wherever_they_begin_in_their_file(copied, images):
    """A longer header moves all tensors by 8 bytes."""
    weights = load_file(copied / "model.safetensors")
    expected = encode(load(copied), images)
    lengths = set()
    for note in range(0, 64, 8):
        save_file(weights, copied / "model.safetensors", metadata={"note": "x" * note})
        with (copied / "model.safetensors").open("rb") as file:
            lengths.add(int.from_bytes(file.read(8), "little") % 64)
        np.testing.assert_array_equal(encode(load(copied), images), expected)
    assert len(lengths) == 8


def test_a_tower_encodes_only_its_own_inputs(tiny_clip_dir, images):
    image, text = load(tiny_clip_dir), load(tiny_clip_dir, "text")
    with pytest.raises(UsageError, match="expected the text tower, got the"):
        image.encode_texts(TEXTS)
    with pytest.raises(UsageError, match="expected the image tower, got the"):
        text.encode_images(image.preprocess(images))
    with pytest.raises(UsageError):
        text.preprocess(images)


def reference_digest(folder):
    """Return a model's digest as docs/format.md defines it."""
    names = {"weights": "model.safetensors"} | {
        path.name: path.name for path in folder.iterdir() if path.suffix != ".safetensors"
    }
    parts = {part: sha256((folder / file).read_bytes()) for part, file in names.items()}
    return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())


def test_details_are_what_a_history_needs(tiny_clip_dir, siglip_dir):
    image = load(tiny_clip_dir, "image")
    assert json.loads(json.dumps(image.details)) == image.details
    preprocessing = image.details.pop("preprocessing")
    settings = json.loads((tiny_clip_dir / "preprocessor_config.json").read_text())
    for name in ("size", "crop_size", "image_mean", "image_std", "rescale_factor"):
        assert preprocessing[name] == settings[name]
    assert preprocessing["resample"] == "bicubic"
    assert image.details == {
        "name": str(tiny_clip_dir),
        "library": f"transformers {transformers.__version__}",
        "digest": reference_digest(tiny_clip_dir),
        "weights": sha256((tiny_clip_dir / "model.safetensors").read_bytes()),
        "tower": "image",
        "dim": 16,
        "precision": "fp32",
        "device": "cpu",
        "logit_scale": pytest.approx(1 / 0.07, rel=1e-4),
    }
    text = load(siglip_dir, "text")
    assert "preprocessing" not in text.details
    stored = load_file(siglip_dir / "model.safetensors")
    assert text.details["logit_scale"] == pytest.approx(stored["logit_scale"].exp().item())
    assert text.details["logit_bias"] == stored["logit_bias"].item()


SIDE_FILES = ["config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"]
DECIDING = [
    *SIDE_FILES,
    *("processor_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"),
    *("tokenizer.4.0.0.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"),
]


@pytest.mark.parametrize("untrained", [None, 1])
@pytest.mark.long
def test_the_digest_covers_every_file_that_decides_an_embedding(copied, untrained):
    digests = set()
    for name in DECIDING:
        before = (copied / name).read_bytes() if (copied / name).exists() else None
        (copied / name).write_bytes((before or b"") + b"\n")
        digests.add(combine_digests(find(str(copied)).digest_side_files()))
        (copied / name).unlink()
        if before is not None:
            (copied / name).write_bytes(before)
    assert len(digests) == len(DECIDING)
    parts = load(copied, untrained=untrained).parts
    assert parts == load(copied, "text", untrained=untrained).parts
    for name in ("README.md", "training.json", "notes.txt", "model.fp16.safetensors"):
        (copied / name).write_text("other files do not matter")
    assert load(copied, "text", untrained=untrained).parts == parts


@pytest.mark.long
def test_threads_share_a_preprocessor(tiny_clip_dir, images):
    encoder = load(tiny_clip_dir)
    expected = encoder.preprocess(images)
    with ThreadPoolExecutor(4) as pool:
        for pixels in pool.map(encoder.preprocess, [images] * 8):
            assert torch.equal(pixels, expected)


@pytest.mark.parametrize(
    ("sizes", "is_transformers_off"),
    [
        ([(640, 427), (427, 640), (97, 64), (524, 316)], True),
        ([(640, 480), (500, 375), (333, 500), (301, 301)], False),
    ],
)
def test_the_crop_is_openais_also_where_transformers_is_one_pixel_off(
    sizes, is_transformers_off, old_form_dir
):
    processor = AutoImageProcessor.from_pretrained(old_form_dir)
    raw = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    resize = transforms.Resize(224, transforms.InterpolationMode.BICUBIC)
    for size in sizes:
        image = clips.noise_image(*size)
        (ours,) = load(old_form_dir).preprocess(image).numpy().astype(int)
        (theirs,) = processor(images=image, **raw)["pixel_values"].astype(int)
        openais = np.asarray(transforms.CenterCrop(224)(resize(image)), int).transpose(2, 0, 1)
        # Pillow, with which OpenAI's code resizes, rounds otherwise than torchvision
        assert abs(ours - openais).max() <= 2, size
        assert (abs(theirs - openais).max() > 2) == is_transformers_off, size
        assert np.array_equal(ours, theirs) != is_transformers_off, size


def test_pixels_of_photographs_are_openais(old_form_dir, real_features):
    published = np.load(real_features / "preprocessing-vitb32.npz")
    encoder = load(old_form_dir, "image")
    for name, expected in zip(published["names"], published["pixels"], strict=True):
        image = Image.open(real_features / "images" / f"{name}.jpg").convert("RGB")
        (pixels,) = encoder.preprocess(image).numpy()
        mean, std = np.reshape(clips.MEAN, (3, 1, 1)), np.reshape(clips.STD, (3, 1, 1))
        difference = abs((pixels / 255 - mean) / std - expected)
        assert difference.max() < 2.01 / 255 / 0.26  # two of 255 levels
        assert (difference > 1e-3).mean() < 0.01


# texts


CLEANED = [
    "a ‘cat’",
    "a “cat”",
    "a cat&#39;s",
    "cats &amp; dogs",
    "a ﬁsh",
    "ｃａｔ",
    "ĳs",
    "©&copy;",
]
NOT_CLEANED = ["rock & roll", "AT&T", "a < b", "“".encode().hex(), "é", "ſt", "1/2 ½", "日本", "🙂"]


def test_a_warning_counts_the_prompts_that_have_other_tokens_than_in_openais_code(
    tiny_clip_dir, capsys, monkeypatch
):
    tokenize = pytest.importorskip("open_clip").get_tokenizer("ViT-B-32")
    tokenizer = AutoTokenizer.from_pretrained(tiny_clip_dir)
    for text in (*CLEANED, *NOT_CLEANED, *TEXTS):
        (expected,) = tokenize([text]).tolist()
        tokens = tokenizer(text)["input_ids"]  # which are clipkit's: see test_plain_clip.py
        is_equal = tokens == expected[: expected.index(max(expected)) + 1]
        assert is_equal == (text not in CLEANED), text
    monkeypatch.setattr(tokenizer_module, "is_installed", lambda package: package != "ftfy")
    encoder = load(tiny_clip_dir, "text")
    encoder.encode_texts([*NOT_CLEANED, *TEXTS])
    assert capsys.readouterr().err == ""
    encoder.encode_texts([*NOT_CLEANED, *CLEANED])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("clipkit: warning: 8 of 17 prompts get other tokens than in OpenAI's")
    assert line.endswith(
        "the first is 'a ‘cat’'; hint: clean them as it does: pip install 'clipkit-vl[ftfy]'"
    )


@pytest.mark.long
def test_ftfy_gives_prompts_the_tokens_of_openais_code(tiny_clip_dir, capsys):
    tokenize = pytest.importorskip("open_clip").get_tokenizer("ViT-B-32")
    texts = [*CLEANED, *NOT_CLEANED, *TEXTS, "cafÃ©", "a cat ", "cafe\u0301"]
    for encoder in (load(tiny_clip_dir, "text"), load(tiny_clip_dir, "text", untrained=1)):
        tokenizer = encoder._tokenizer
        ours = tokenizer.tokens(tokenizer.clean(texts, texts))
        for row, expected in zip(ours.tolist(), tokenize(texts).tolist(), strict=True):
            end = expected.index(max(expected)) + 1
            assert row[:end] == expected[:end]
        tokenizer.warn_of_other_tokens(texts)
    assert capsys.readouterr().err == ""
    file = embedding.embed_texts(texts, encoder)
    assert file.history[0]["cleaned"] == {"ftfy": version("ftfy"), "prompts": len(CLEANED) + 1}
    assert "cleaned" not in embedding.embed_texts(NOT_CLEANED, encoder).history[0]
    with pytest.raises(ClipkitError, match="expected letters or digits"):
        embedding.embed_texts(["&#32;"], encoder)
    kept = load(tiny_clip_dir, "text", clean=False)
    assert kept.cleaned_by_ftfy(texts) is None
    assert kept._tokenizer.clean(texts, texts) == texts


@pytest.mark.long
def test_the_characters_that_are_warned_of_are_those_that_ftfy_replaces():
    ftfy = pytest.importorskip("ftfy")
    for character in map(chr, range(0xA0, 0x10000)):
        if unicodedata.category(character) in ("Cn", "Cs"):  # unassigned, half a surrogate pair
            continue
        text = f"a {character} b"
        fixed = ftfy.fix_text(text, fix_encoding=False).split()
        assert is_cleaned_by_openai(text) == (unicodedata.normalize("NFC", text).split() != fixed)


@pytest.mark.long
@pytest.mark.parametrize("form", ["tiny_clip_dir", "old_form_dir"], indirect=True)
def test_batches_of_texts_do_not_mix_and_report_progress(form):
    encoder = load(form, "text")
    texts = [f"{TEXTS[i % 6]} {i}" for i in range(300)]
    progress = []
    together = encoder.encode_texts(texts, progress=lambda *done: progress.append(done))
    assert together.shape == (300, 16)
    assert progress == [(256, 300), (300, 300)]
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts[250:262]])
    np.testing.assert_allclose(together[250:262], alone, rtol=1e-4, atol=1e-5)


def test_a_long_text_is_refused_or_cut(tiny_clip_dir):
    encoder = load(tiny_clip_dir, "text")
    fits, long = "dog " * 75, "dog " * 76

    message = r"text 1 \(counted from 0\): "
    with pytest.raises(ClipkitError, match=message) as error:
        encoder.encode_texts([fits, long, "dog " * 90])
    assert "--truncate" in str(error.value.hint)
    cut = encoder.encode_texts([long, fits], truncate=True)
    np.testing.assert_allclose(cut[0], cut[1], rtol=1e-5)


@pytest.mark.long
def test_a_single_text_or_image_is_one_row(tiny_clip_dir, images):
    text, image = load(tiny_clip_dir, "text"), load(tiny_clip_dir)
    np.testing.assert_array_equal(text.encode_texts("a cat"), text.encode_texts(["a cat"]))
    assert embedding.embed_texts("a cat", text).texts == ["a cat"]
    assert text.encode_texts([]).shape == (0, 16)
    one = image.preprocess(images[0])
    assert one.shape == (1, 3, 32, 32)
    expected = image.encode_images(image.preprocess(images[:1]))
    for argument in (one, one[0], images[0], images[:1]):
        np.testing.assert_array_equal(image.encode_images(argument), expected)


# the untrained control


@pytest.mark.long
def test_untrained_towers_come_from_one_seeded_model(copied, images):
    state = torch.random.get_rng_state()
    image, text = (load(copied, tower, untrained=7) for tower in ("image", "text"))
    other = load(copied, untrained=8)
    assert torch.equal(state, torch.random.get_rng_state())
    assert image.details["untrained"] == 7
    assert image.details["digest"] == text.details["digest"]
    digests = {encoder.details["digest"] for encoder in (image, other, load(copied))}
    assert len(digests) == 3
    embeddings = encode(image, images)
    assert clips.cosines(embeddings, encode(other, images)).max() < 0.99

    (copied / "model.safetensors").unlink()
    again = load(copied, untrained=7)
    assert again.details["digest"] == image.details["digest"]
    np.testing.assert_array_equal(encode(again, images), embeddings)

    clips.tiny_clip(copied, seed=7)  # an ordinary model made with that seed
    np.testing.assert_array_equal(encode(load(copied), images), embeddings)
    trained = load(copied, "text")
    np.testing.assert_array_equal(encode(text, images), encode(trained, images))
    assert image.details["logit_scale"] == trained.details["logit_scale"]


# descriptions and silence


@pytest.mark.parametrize(
    ("form", "context_length"), [("tiny_clip_dir", 77), ("siglip_dir", 64)], indirect=["form"]
)
def test_describe_counts_without_running(form, context_length):
    description = models.describe_model(str(form))
    model = (SiglipModel if "siglip" in form.name else CLIPModel).from_pretrained(form)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    layers = {"layers": 2, "width": 32, "heads": 2}
    image = {"patch_size": 8, "image_size": 32}
    text = {"context_length": context_length, "vocabulary": 49408}
    for tower, prefix, expected in (("image", "vi", image), ("text", "text", text)):
        parameters = sum(size for name, size in sizes.items() if name.startswith(prefix))
        assert description[tower] == {**layers, **expected, "parameters": parameters}
    assert description["parameters"] == model.num_parameters()
    assert description["temperature"] == pytest.approx(1 / model.logit_scale.exp().item())
    assert description["digest"] == load(form, "text").details["digest"]


def test_nothing_is_printed(form, capfd):
    for tower in ("image", "text"):
        load(form, tower, untrained=1)
    load(form, "text").encode_texts(["word " * 200], truncate=True)
    models.describe_model(str(form))
    assert capfd.readouterr() == ("", "")


# damaged and untrusted files

BIAS = "vision_model.encoder.layers.1.mlp.fc1.bias"
BAD_SIZE = b'{"model_type": "clip", "vision_config": {"hidden_size": "x"}}'
REMOTE_CODE = b'{"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}}'
HUGE = 10**9  # must not be allocated before config.json is compared with the weights
vision = functools.partial(changed, "config.json", "vision_config")
text = functools.partial(changed, "config.json", "text_config")
processor = functools.partial(changed, "preprocessor_config.json")
tokenizer = functools.partial(changed, "tokenizer_config.json")


def sides(height, width):
    return {"height": height, "width": width}


def write(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def remove(file):
    return lambda folder: (folder / file).unlink()


def cut(length):
    return lambda folder: os.truncate(folder / "model.safetensors", length)


def index(folder, **weight_map):
    clips.write_json(folder / "model.safetensors.index.json", weight_map=weight_map)


def point_elsewhere(folder, shard="../elsewhere.safetensors"):
    shutil.move(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    index(folder, logit_scale=shard)


def store_a_tensor_twice(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({BIAS: tensors[BIAS]}, folder / "b.safetensors")
    index(folder, logit_scale="a.safetensors", **{BIAS: "b.safetensors"})


def scale(value, dtype=torch.float32):
    return stored(logit_scale=torch.tensor(value).to(dtype))


def retype(dtype):
    return lambda f: clips.edit_tensors(f, lambda t: t.update({BIAS: t[BIAS].to(dtype)}))


def poison(value, dtype=torch.float32):
    """Set a bias before a ReLU, behind which NaN may be zero."""

    def edit(t):
        t[BIAS] = t[BIAS].to(dtype)
        t[BIAS][3] = value

    return lambda folder: clips.edit_tensors(folder, edit)


DAMAGED = [
    (remove("config.json"), "expected a model's config.json or open_clip_config.json, got none"),
    (write("config.json", b"{"), "config.json: expected valid JSON: Expecting property name"),
    (write("config.json", b"[" * 100_000), "config.json: expected valid JSON: maximum recursion"),
    (write("config.json", b"[]"), "config.json: expected a JSON object, got list"),
    (write("config.json", b"{}"), "expected a model that clipkit reads, got model_type None"),
    (write("config.json", BAD_SIZE), "cannot load config.json of .*model: "),
    (
        lambda folder: (folder / "config.json").rename(folder / "open_clip_config.json"),
        "expected open_clip_model.safetensors, got model.safetensors",
    ),
    (
        remove("preprocessor_config.json"),
        "expected its image processor in preprocessor_config.json, got none",
    ),
    (write("processor_config.json", b"[]"), "processor_config.json: expected a JSON object, got"),
    (write("preprocessor_config.json", b"\xff"), "preprocessor_config.json: expected valid JSON"),
    *((cut(n), "model.safetensors: expected a complete safetensors file") for n in (0, 7, 4000)),
    (without_tensor(BIAS), f"weights that fit config.json; missing: .*{BIAS[20:]}$"),
    (without_tensor("logit_scale"), "fit config.json; missing: logit_scale$"),
    (stored(logit_scale=torch.zeros(2)), r"logit_scale, got the shape \(2,\)"),
    (scale(1e4), r"expected exp\(logit_scale\) between 1e-12 and 1e\+12, got .* 10000$"),
    (scale(math.nan), "logit_scale of nan$"),
    (scale(3, torch.int64), "expected weights in floating point, got I64 for logit_scale$"),
    (stored(logit_bias=torch.tensor(math.nan)), "finite logit_bias, got nan$"),
    (vision(num_hidden_layers=1), r"config.json; unexpected: .*encoder\.layers\.1\..* and 15 more"),
    (stored(**{BIAS + "_scale": torch.ones(1)}), "unexpected: .*bias_scale$"),
    (retype(torch.int8), "in floating point, got I8 for vision_model"),
    (retype(torch.complex64), "in floating point, got C64 for vision_model"),
    (poison(-math.inf), f"expected finite weights, got NaN or Inf in {BIAS}$"),
    (poison(1e300, torch.float64), f"expected finite weights, got NaN or Inf in {BIAS}$"),
    (store_a_tensor_twice, f"expected each tensor once, got two {BIAS}$"),
    (changed("config.json", projection_dim=8), r"mismatched: visual_projection\.weight$"),
    (point_elsewhere, r"safetensors files in its folder, got '\.\./elsewhere.safetensors'"),
    (
        lambda folder: point_elsewhere(folder, "b.safetensors"),
        "b.safetensors is missing, which model.safetensors.index.json lists",
    ),
    (remove("vocab.json"), "model: expected its tokenizer"),
    (remove("merges.txt"), "model: expected its tokenizer"),
    (write("vocab.json", b"no"), "cannot load the tokenizer of .*model: "),
    (
        write("preprocessor_config.json", REMOTE_CODE),
        r"its own code \(auto_map\), which clipkit",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED)
def test_damaged_files_are_named_in_one_line(copied, damage, message):
    damage(copied)
    fails_to_load(copied, message, "text" if "tokenizer" in message else "image")


def test_weights_that_are_too_large_for_the_precision_are_refused(copied):
    poison(-1e5)(copied)
    load(copied, precision="bf16")
    error = fails_to_load(copied, "of at most 65504 in fp16, got", precision="fp16")
    assert error.hint == "try --precision fp32"


MISFITS = [
    ("image", vision(num_hidden_layers=HUGE), "1 to 1000 layers per tower, got num_hidden_layers"),
    ("image", text(num_hidden_layers=HUGE), "1 to 1000 layers per tower, got num_hidden_layers"),
    ("image", vision(num_hidden_layers=3), "fit config.json; missing: .*layers.2"),
    ("image", vision(hidden_size=HUGE), "fit config.json; mismatched: vision_model"),
    ("image", vision(image_size=10**6), "fit config.json; mismatched: .*position_embedding"),
    ("text", text(vocab_size=10**12), "fit config.json; mismatched: .*token_embedding"),
    ("text", text(max_position_embeddings=HUGE), "fit config.json; mismatched: .*position_embed"),
    ("image", vision(hidden_size=-1), "cannot load "),
    ("image", vision(patch_size=0), "cannot load the architecture of .*: .*division"),
    ("image", vision(hidden_act="swishy"), "cannot load the architecture of .*: 'swishy'"),
    ("image", vision(hidden_size="x"), "hidden_size: expected a whole number, got 'x'"),
    ("text", text(eos_token_id=None), "expected a number as eos_token_id in config.json, got None"),
    ("text", text(eos_token_id=49406), "expected the end token 49406 once, as a prompt's last"),
    ("text", tokenizer(tokenizer_class="BertTokenizer"), "the end token 49407 once|cannot"),
    ("text", tokenizer(pad_token=None), "padding token|cannot"),
    ("image", processor(crop_size=sides(40, 40)), "expected 3 x 32 x 32 numbers, .* got 3 x 40"),
    ("image", processor(do_center_crop=False, do_rescale=None, size={"longest_edge": 9}), "image"),
    ("image", processor(size={"shortest_edge": 10**6}), "shortest_edge of 1 to 4096 in size"),
    ("image", processor(do_center_crop=False, size=sides(32, 0)), "1 to 4096 in size"),
    ("image", processor(size={}), "cannot load the image processor of "),
    ("image", processor(image_mean=[1, 2]), "cannot preprocess an image for "),
    ("image", processor(image_mean=[math.nan] * 3), "cannot load the image processor .*compliant"),
    ("image", processor(image_std=[0, 0, 0]), "expected a finite embedding of a first image, got"),
    ("image", processor(rescale_factor=0), "cannot load the image processor of .*: .*division"),
    ("image", processor(resample=7), "cannot .*: KeyError: 7|not a valid"),
    ("image", processor(image_processor_type="ViTMAE"), "cannot load the image processor of "),
]


@pytest.mark.parametrize(("tower", "misfit", "message"), MISFITS)
@pytest.mark.long
def test_files_that_do_not_fit_each_other_are_refused_when_the_model_is_loaded(
    tower, misfit, message, copied
):
    misfit(copied)
    error = fails_to_load(copied, message, tower)
    assert not error.message.endswith(":")
    if message.startswith("fit config.json"):
        with pytest.raises(ClipkitError, match=message):
            models.describe_model(str(copied))


@pytest.mark.parametrize(
    ("misfit", "message"),
    [
        (text(vocab_size=10**12), "fits into .* GiB of memory, got one of 119,[0-9]* GiB"),
        (vision(hidden_size=10**8), "fits into .* GiB of memory, got one of"),
        (vision(num_hidden_layers=HUGE), "1 to 1000 layers per tower"),
        (vision(initializer_range=math.nan), "cannot load|finite weights"),
        (changed("config.json", logit_scale_init_value=800.5), "exp"),
    ],
)
def test_an_untrained_model_that_cannot_be_made_is_refused(misfit, message, copied):
    misfit(copied)
    fails_to_load(copied, message, untrained=0)


def test_a_prompt_that_holds_the_end_token_is_refused(tiny_clip_dir):
    encoder = load(tiny_clip_dir, "text")
    with pytest.raises(ClipkitError, match="expected the end token 49407 once") as error:
        encoder.encode_texts(["a cat", "a dog <|endoftext|> of wood"])
    assert str(error.value.hint).startswith("take <|endoftext|> out of the prompt")


def test_an_image_that_the_processor_cannot_resize_is_named_in_one_line(copied):
    processor(do_resize=False, do_center_crop=False)(copied)
    with pytest.raises(ClipkitError, match=r"expected 3 x 32 x 32 numbers, .* got 3 x") as error:
        load(copied)
    assert "encode images one by one: -b 1" in str(error.value.hint)
    encoder = load(copied, batch_size=1)
    images = [clips.noise_image(40, 24), clips.noise_image(32, 32)]
    with pytest.raises(ClipkitError, match=r"expected 3 x 32 x 32 numbers, .* got 3 x 24 x 40"):
        encoder.encode_images(images[0])
    with pytest.raises(ClipkitError, match=r"one size of all images, got 3 x 24 x 40 and 3 x 32"):
        encoder.encode_images(images)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def replace_by(make):
    return lambda path: (path.unlink(), make(path))


@pytest.mark.parametrize("file", [*SIDE_FILES, "chat_template.jinja"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace_by(lambda path: path.symlink_to("/dev/zero")), "expected a regular file, got"),
        (replace_by(os.mkfifo), "expected a regular file, got a folder, FIFO or device"),
        (lambda path: os.truncate(path, 10**9), "expected at most [0-9]+ MiB, got 1,000,000,000"),
        (lambda path: path.write_bytes(POINTER), "expected the file, got a Git LFS pointer"),
    ],
)
def test_a_side_file_is_a_small_regular_file(file, damage, message, copied):
    (copied / file).touch()
    damage(copied / file)
    for untrained in (None, 1):
        fails_to_load(copied, f"{file}: {message}", untrained=untrained)


def test_a_side_file_that_states_no_size_is_read_to_the_limit(copied, monkeypatch):
    (copied / "config.json").unlink()
    (copied / "config.json").symlink_to("/proc/self/maps")
    monkeypatch.setattr(hub, "MAX_SETTINGS_BYTES", 1000)
    fails_to_load(copied, "expected at most 0 MiB, got more than 1,000 bytes")


def test_a_vocabulary_of_too_many_tokens_is_not_parsed(copied, monkeypatch):
    monkeypatch.setattr(hub, "MAX_COMMAS", 100)
    fails_to_load(copied, r"vocab.json: expected at most 100 commas, got [0-9,]+")


def test_weights_that_git_lfs_has_not_fetched(copied):
    (copied / "model.safetensors").write_bytes(POINTER)
    error = fails_to_load(copied, r"model.safetensors: expected the file, got a Git LFS pointer")
    assert error.hint == "fetch the file itself: git lfs pull"


def test_weights_that_are_no_file_are_not_opened(copied):
    (copied / "model.safetensors").unlink()
    os.mkfifo(copied / "model.safetensors")
    fails_to_load(copied, r"model.safetensors: expected a regular file, got a folder, FIFO or")


def test_weights_of_another_name_are_named(copied):
    (copied / "model.safetensors").rename(copied / "model.fp16.safetensors")
    error = fails_to_load(copied, "got model.fp16.safetensors; hint")
    assert "ln -s model.fp16.safetensors model.safetensors" in str(error.hint)


@pytest.mark.parametrize("file", SIDE_FILES)
def test_json_that_is_nested_200_000_deep_is_one_line(file, copied):
    (copied / file).write_text('{"a":' * 200_000 + "1" + "}" * 200_000)
    fails_to_load(copied, ".", "text" if file in SIDE_FILES[2:] else "image")


def test_damage_to_one_tower_leaves_the_other(copied):
    without_tensor(BIAS)(copied)
    assert load(copied, "text").encode_texts(TEXTS).shape == (6, 16)


def test_a_tokenizer_of_another_model(copied):
    text(vocab_size=400)(copied)
    fails_to_load(copied, "model: expected tokens below 400, got 49407", "text", untrained=0)


def replace(content, **pattern):
    return {"type": "Replace", "pattern": pattern, "content": content}


RULES = [
    # 60 letters take more steps than Oniguruma allows
    (replace("", Regex="(?:a|aa)+$b"), "a" * 60, "model: tokenizers failed: Onig: .*over$"),
    (replace("y" * 3_000_000, String="x"), "x", r"at most 10,000 .* up to 21,000,007; hint"),
    (replace("y" * 3000, String="x"), "a xxxxx", r"10,000 characters after .*, got 15,002; hint"),
    ({"type": "NFKD"}, "\ufdfa" * 1000, r"10,000 characters after .*, got 18,000; hint"),
]


@pytest.mark.parametrize(("rule", "text", "message"), RULES)
def test_a_rule_of_tokenizer_json_that_panics_or_lets_a_text_grow_is_one_line(
    rule, text, message, tmp_path, capfd
):
    folder = shutil.copytree(TINY, tmp_path / "model")
    changed("tokenizer.json", normalizer=rule)(folder)
    with pytest.raises(ClipkitError, match=message) as error:
        load(folder, "text").encode_texts([text], truncate=True)
    assert "\n" not in error.value.message
    assert capfd.readouterr() == ("", "")


# names, devices, precisions


ABSENT = "cannot use the device .*: PyTorch .* finds 0 cuda devices"
REFUSED = [
    ("name", "ViT-B/33", "unknown model 'ViT-B/33'; did you mean ViT-B/32 or ViT-B/16"),
    ("name", "dir/none.h5", "cannot read dir/none.h5: there is no such file"),
    ("name", "dir/none.safetensors", "cannot read dir/none.safetensors: there is no such file"),
    ("name", __file__, ".*test_models.py: expected a model's folder, got a file"),
    ("name", "~nobody/models/mine", "cannot read ~nobody/models/mine: there is no such folder"),
    ("name", "ViT-B32", "unknown model 'ViT-B32'; did you mean .*ViT-B-32"),
    ("name", "./models/mine", r"cannot read \./models/mine: there is no such folder"),
    ("precision", "fp8", "unknown precision 'fp8'"),
    *(("device", name, "unknown device") for name in ("cpu:1", "cuda:", "cuda:x", "gpu", "")),
    *(("device", name, ABSENT) for name in ("cuda", "cuda:0", "cuda:3")),
]


@pytest.mark.parametrize(("option", "value", "message"), REFUSED)
def test_unknown_names_and_absent_devices_are_refused(option, value, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    kind = UsageError if message.startswith("unknown") else ClipkitError
    with pytest.raises(kind) as error:
        models.load(**{"name": "tiny", "tower": "image", option: value})
    assert re.match(message, f"{error.value.message}; {error.value.hint}")


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "capability", "expected"),
    [
        ("cpu", True, None, "bf16"),
        ("cpu", False, None, "fp32"),
        ("cuda", False, (9, 0), "bf16"),
        ("cuda", False, (8, 0), "bf16"),
        ("cuda", False, (7, 5), "fp16"),
    ],
)
def test_automatic_precision_depends_on_the_device(
    device, has_bfloat16, capability, expected, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device(device), is_plain=False) == expected
    assert choose_precision("auto", torch.device(device), is_plain=True) == "fp32"


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", "fp64"), ("cuda", "fp64"), ("mps", "fp32")]
)
def test_the_automatic_precision_of_a_bundled_model_is_the_widest(device, expected):
    where = torch.device(device)
    for is_plain in (True, False):
        precision = choose_precision("auto", where, is_plain=is_plain, is_bundled=True)
        assert precision == expected


def test_textembed_computes_in_float32_unless_told_otherwise(tmp_path, tiny_clip_dir, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    for options, expected in (((), "fp32"), (("--precision", "bf16"), "bf16")):
        model = ("-m", tiny_clip_dir, "--device", "cpu", *options)
        words = ("textembed", tmp_path / "p.txt", *model)
        ok(*words, "-f", "-o", tmp_path / "t.h5")
        assert features.read(tmp_path / "t.h5").model()["precision"] == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize(
    ("precision", "least"), [("fp32", 0.99999), ("bf16", 0.999), ("fp16", 0.999)]
)
def test_features_on_cuda(precision, least, tower, tiny_clip_dir, images):
    on_gpu = load(tiny_clip_dir, tower, device="cuda", precision=precision)
    assert on_gpu.details["device"] == "cuda"
    expected = encode(load(tiny_clip_dir, tower), images)
    assert clips.cosines(encode(on_gpu, images), expected).min() >= least


def test_loading_waits_for_a_gpu_that_has_not_finished(monkeypatch):
    class Waiting:
        """Embeddings that only numpy can read, as `AsyncEmbeddings` are."""

        def __init__(self, rows):
            self.rows = rows

        def __array__(self, dtype=None, copy=None):
            return self.rows.float().numpy()

    monkeypatch.setattr(models.Encoder, "_to_array", lambda _self, rows: Waiting(rows))
    assert (load(TINY).dim, load(TINY, layers=[0, 1]).dim) == (64, 256)
