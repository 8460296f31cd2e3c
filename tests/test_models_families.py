"""Models of transformers beyond CLIP and SigLIP: each gives what plain transformers gives."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
import versions
from factories import clips, refused
from factories.clips import SMALL_TOWER, SMALL_VISION, edit_tensors
from factories.zoo import (
    CLASSES_ZOO,
    OWN_ZOO,
    UNTESTED_ZOO,
    VISION_ZOO,
    WHOLE_ZOO,
    changed,
    fails_to_load,
    load,
    read_vision_model,
    stir,
    stored,
    without_tensor,
    write_vision_model,
)
from safetensors.torch import load_file
from shell import clipkit, fails, ok
from transformers import AutoImageProcessor, AutoTokenizer

from clipkit import features, models
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.models.families import FAMILIES

PROMPTS = ["a photo of a cat", "Something ROUND, and open!", "東京 é 7"]
WRITERS = {
    "altclip": (clips.tiny_altclip, "AltCLIPModel"),
    "chinese-clip": (clips.tiny_chinese_clip, "ChineseCLIPModel"),
    "metaclip-2": (clips.tiny_metaclip2, "MetaClip2Model"),
    "siglip2-naflex": (clips.tiny_naflex, "Siglip2Model"),
    "aimv2-lit": (clips.tiny_aimv2_lit, "Aimv2Model"),
}
PADDING = {
    "altclip": {"padding": True, "return_attention_mask": True},
    "chinese-clip": {"padding": True, "return_attention_mask": True},
    "metaclip-2": {"padding": True, "return_attention_mask": False},
    "siglip2-naflex": {
        **{"padding": "max_length", "max_length": 64},
        "return_attention_mask": False,
    },
}
# The tokens before the patches of models that their own methods read
PREFIX = {
    **dict.fromkeys(("altclip", "chinese-clip", "metaclip-2", "beit", "mlcd", "internvl"), 1),
    **dict.fromkeys(("blip", "data2vec", "owlvit", "yolos"), 1),
    **dict.fromkeys(("deit", "deit-classifier"), 2),
}
SUFFIX = {"yolos": 5}  # and the tokens behind them


@pytest.fixture(scope="module", params=[*VISION_ZOO, *OWN_ZOO, *CLASSES_ZOO, *WRITERS])
def zoo(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("zoo"), request.param)


@pytest.fixture(scope="module", params=PADDING)
def dual(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("dual"), request.param)


@pytest.fixture(scope="module")
def naflex(tmp_path_factory):
    return write(tmp_path_factory.mktemp("models"), "siglip2-naflex")


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return write(tmp_path_factory.mktemp("models"), "dinov2")


def write(parent, name):
    if name in WHOLE_ZOO:
        return write_vision_model(parent / name, name)
    writer, _ = WRITERS[name]
    return writer(parent / name)


def read(folder):
    """Return a model by plain transformers."""
    if folder.name in WHOLE_ZOO:
        return read_vision_model(folder)
    return clips.in_memory(getattr(transformers, WRITERS[folder.name][1]).from_pretrained(folder))


def embeddings_of(outputs):
    """Return the embeddings that `get_image_features` or `get_text_features` gives.

    transformers returned them until version 4, and returns them as `pooler_output` since.
    """
    return getattr(outputs, "pooler_output", outputs).numpy()


def image_embedding(model, name, inputs):
    """Return the embedding (1, D) of an image by plain transformers."""
    if name in WRITERS or WHOLE_ZOO[name][2] == "features":
        return embeddings_of(model.get_image_features(**inputs))
    options = {}
    if name == "vit-mae":
        model.config.mask_ratio = 0.0
        options = {"noise": torch.arange(16)[None]}
    outputs = model(**inputs, **options)
    embedding = WHOLE_ZOO[name][2]
    if embedding == "cls":
        return outputs.last_hidden_state[:, 0].numpy()
    if embedding == "mean":
        return outputs.last_hidden_state.mean(dim=1).numpy()
    if embedding == "map":
        last = outputs["feature_maps"][-1] if "feature_maps" in outputs else outputs[0]
        return last.mean(dim=(2, 3)).numpy()
    return outputs[embedding].flatten(1).numpy()


@torch.no_grad()
def by_transformers(folder):
    """Return the embeddings of the noise images, one by one, by plain transformers."""
    model = read(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    rows = []
    for image in clips.noise_images():
        inputs = processor(images=image, return_tensors="pt")
        rows.append(image_embedding(model, folder.name, inputs))
    return np.concatenate(rows)


def texts_by_transformers(folder, texts):
    """Return the embeddings of texts by plain transformers."""
    tokenize = AutoTokenizer.from_pretrained(folder)
    padding = PADDING[folder.name]
    inputs = tokenize(texts, padding_side="right", return_tensors="pt", **padding)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return embeddings_of(read(folder).get_text_features(**inputs))


def test_images_are_embedded_as_plain_transformers_does(zoo):
    encoder = load(zoo)
    expected = by_transformers(zoo)
    rows = np.concatenate([encoder.encode_images(image) for image in clips.noise_images()])
    np.testing.assert_array_equal(rows, expected)
    together = encoder.encode_images(clips.noise_images())
    clips.assert_close(together, expected)
    assert encoder.dim == expected.shape[1]
    assert ("logit_scale" in encoder.details) == (zoo.name in PADDING)


@pytest.fixture
def unset_memory():
    """Fill memory that no one sets with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before)


def test_a_tower_has_no_weights_that_were_not_read(zoo, unset_memory):
    for tower in ("image", "text") if zoo.name in PADDING else ("image",):
        load(zoo, tower)  # it refuses weights that are NaN


def test_half_precision_is_close(zoo):
    half = clips.embed_noise(zoo, precision="bf16")
    assert clips.cosines(half, by_transformers(zoo)).min() >= 0.999


def test_texts_are_embedded_as_plain_transformers_does(dual):
    cleaning = load(dual, "text").details.get("cleaning")
    assert cleaning == ("canonicalize" if "naflex" in dual.name else None)
    encoder = load(dual, "text", clean=False)
    expected = texts_by_transformers(dual, PROMPTS)
    np.testing.assert_array_equal(encoder.encode_texts(PROMPTS), expected)
    alone = np.concatenate([encoder.encode_texts(text) for text in PROMPTS])
    clips.assert_close(alone, expected)


def test_both_towers_have_an_untrained_control(zoo):
    clips.check_untrained_control(zoo)
    if zoo.name in PADDING:
        first, again, other = (
            load(zoo, "text", untrained=seed).encode_texts(PROMPTS) for seed in (7, 7, 8)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.allclose(first, other)


def test_a_model_is_described(zoo):
    described = models.describe_model(str(zoo))
    assert described["image"]["layers"] in (2, 4)
    assert described["parameters"] > 1000
    for part in ("text", "temperature"):
        assert (part in described) == (zoo.name in PADDING)
    if zoo.name in WRITERS:
        tensors = load_file(zoo / "model.safetensors")
        prefixes = ("vision_model.", "visual_projection.")
        sizes = [tensors[name].numel() for name in tensors if name.startswith(prefixes)]
        assert described["image"]["parameters"] == sum(sizes)
        assert described["dim"] == load(zoo).dim


def test_images_that_are_normalised_twice_are_warned_of(tmp_path, capfd):
    folder = write_vision_model(tmp_path / "radio", "radio")
    assert load(folder).details["preprocessing"]["do_normalize"] is False
    assert "normalises images" not in capfd.readouterr()[1]
    clips.write_processor(folder, 32)
    load(folder)
    assert "the model does so again; expected do_normalize false" in capfd.readouterr()[1]


@pytest.mark.long
def test_probe_and_cluster_take_the_embeddings_and_logits_do_not(dino, tmp_path):
    images, texts = tmp_path / "img.h5", tmp_path / "txt.h5"
    ok("embed", "digits", "--limit", 40, "-m", dino, "-o", images)
    ok("textembed", "-m", "tiny", "-o", texts, stdin=b"a dot\na line\n")
    assert features.read(images).splits["test"].features.shape == (40, 32)
    ok("probe", images)
    ok("cluster", images)
    ok("logits", images, "--random", 4, "-o", tmp_path / "random.h5")
    line = fails("logits", images, texts, "-o", tmp_path / "logits.h5")
    assert "expected images of a model with a text tower" in line
    assert "clipkit probe, cluster, variance" in fails("zeroshot", images)
    fails("textembed", "-m", dino, "-o", tmp_path / "t.h5", stdin=b"a dot\n", exit_code=2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_tensor("layernorm.weight"), "missing: layernorm.weight"),
        (stored(embeddings__extra=torch.zeros(3)), "unexpected: embeddings.extra"),
        (changed("config.json", num_hidden_layers=500), "expected weights that fit config.json"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(damage, message, dino, tmp_path):
    folder = shutil.copytree(dino, tmp_path / "model")
    stored(classifier__weight=torch.zeros(3))(folder)
    load(folder)  # a head is left out
    damage(folder)
    fails_to_load(folder, message)


# SigLIP 2 NaFlex


def test_grey_images_are_taken_as_colour(naflex):
    encoder = load(naflex)
    grey = clips.noise_image(40, 24).convert("L")
    expected = encoder.encode_images(grey.convert("RGB"))
    np.testing.assert_array_equal(encoder.encode_images(grey), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "expected Siglip2ImageProcessor, got"),
        ({"max_num_patches": 10**9}, "expected a max_num_patches of 1 to 65536"),
        ({"patch_size": 4}, "cannot encode with"),
    ],
)
@pytest.mark.long
def test_a_processor_that_does_not_fit_naflex_is_refused_in_one_line(change, message, tmp_path):
    folder = clips.tiny_naflex(tmp_path / "siglip2-naflex")
    changed("preprocessor_config.json", **change)(folder)
    fails_to_load(folder, message)


@pytest.mark.exhaustive
@pytest.mark.parametrize("has_head", [True, False])
def test_the_vision_tower_of_naflex_alone(has_head, tmp_path):
    config = transformers.Siglip2VisionConfig(
        **clips.SMALL_TOWER, num_patches=16, patch_size=8, vision_use_head=has_head
    )
    torch.manual_seed(0)
    model = transformers.Siglip2VisionModel(config).eval()
    model.save_pretrained(tmp_path)
    clips.write_naflex_processor(tmp_path)
    images = clips.noise_images()
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(images=images, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    expected = outputs.pooler_output
    if not has_head:
        lengths = inputs["pixel_attention_mask"].sum(1).tolist()
        tokens = zip(outputs.last_hidden_state, lengths, strict=True)
        expected = torch.stack([row[:length].mean(dim=0) for row, length in tokens])
    encoder = load(tmp_path)
    clips.assert_close(encoder.encode_images(images), expected)
    assert encoder.details["embedding"] == ("pooler_output" if has_head else "mean of patches")


@pytest.mark.long
@pytest.mark.parametrize("name", WRITERS)
def test_hidden_states_are_those_of_plain_transformers(name, tmp_path):
    folder = write(tmp_path, name)
    prefix = PREFIX.get(name, 0)
    model = read(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    encoder = load(folder, layers=[0, 1], pool="mean")
    for image in clips.noise_images()[3:6]:
        inputs = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            outputs = model.vision_model(**inputs, output_hidden_states=True)
        states = outputs.hidden_states[:-1]  # the last may be normed
        mask = inputs.get("pixel_attention_mask", torch.ones(states[0].shape[:2])).bool()
        expected = [state[mask][prefix:].mean(dim=0) for state in states]
        (row,) = encoder.encode_images(image)
        clips.assert_close(row, torch.cat(expected).numpy())


# Models that their own methods read


def mean_of_states(outputs, prefix, suffix):
    """Return the means (1, width) of the hidden states; a map has two equal sides."""
    means = []
    for state in outputs.hidden_states:
        if state.ndim == 3:
            means.append(state[:, prefix : state.shape[1] - suffix].mean(dim=1))
        else:
            is_last = state.shape[1] == state.shape[2] != state.shape[3]
            means.append(state.mean(dim=(1, 2) if is_last else (2, 3)))
    return means


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [*OWN_ZOO, *UNTESTED_ZOO])
def test_hidden_states_of_own_methods_are_those_of_plain_transformers(name, tmp_path):
    folder = write(tmp_path, name)
    model = read(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    encoder = load(folder, layers="all", pool="mean")
    for image in clips.noise_images()[3:6]:
        inputs = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            vision = getattr(model, "vision_model", model)
            outputs = vision(**inputs, output_hidden_states=True)
        means = mean_of_states(outputs, PREFIX.get(name, 0), SUFFIX.get(name, 0))
        assert encoder.details["layers"] == len(means) - 1
        clips.assert_close(encoder.encode_images(image), torch.cat(means, 1).numpy())


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", UNTESTED_ZOO)
def test_a_kind_without_a_row_is_read_by_its_own_methods_and_this_is_said(name, tmp_path, capfd):
    folder = write(tmp_path, name)
    expected = by_transformers(folder)
    encoder = load(folder)
    assert capfd.readouterr()[1].count("tests do not cover this kind of model") == 1
    assert encoder.details["tested"] is False
    rule = {"features": "image_embeds", "cls": "CLS token", "map": "mean of the map"}
    embedding = WHOLE_ZOO[name][2]
    assert encoder.details["embedding"] == rule.get(embedding, embedding)
    rows = np.concatenate([encoder.encode_images(image) for image in clips.noise_images()])
    np.testing.assert_array_equal(rows, expected)
    modes = [clips.noise_image(40, 24).convert(mode) for mode in ("L", "P", "RGBA", "CMYK")]
    colours = encoder.encode_images([image.convert("RGB") for image in modes])
    np.testing.assert_array_equal(encoder.encode_images(modes), colours)
    assert clips.cosines(clips.embed_noise(folder, precision="bf16"), expected).min() >= 0.998
    assert load(folder, precision="auto").details["precision"] == "fp32"
    if embedding == "features":
        assert models.describe_model(str(folder)).get("temperature", 1) > 0


@pytest.mark.parametrize("ending", ["", "WithProjection"])
def test_the_text_tower_of_a_clip_alone(ending, tmp_path):
    folder = clips.tiny_clip(tmp_path / "clip")
    kind = getattr(transformers, f"CLIPTextModel{ending}")
    model = clips.in_memory(kind.from_pretrained(folder, projection_dim=16))
    alone = shutil.copytree(folder, tmp_path / "text")
    model.save_pretrained(alone)
    tokens = AutoTokenizer.from_pretrained(alone)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(input_ids=tokens["input_ids"])
    expected = outputs.text_embeds if ending else outputs.pooler_output
    np.testing.assert_array_equal(load(alone, "text").encode_texts(PROMPTS), expected)
    fails_to_load(alone, "expected a model with an image tower, got clip_text_model, which is for")


# Crops and sizes


@pytest.mark.parametrize(
    ("name", "offset"),
    [("aimv2", "down"), ("siglip-vision", "down"), ("mlcd", "down"), ("clip-vision", "")],
)
@versions.PIXELS
def test_only_clip_gets_openais_crop_whatever_the_processor(name, offset, tmp_path):
    folder = write(tmp_path, name)
    image = clips.noise_image(640, 427)  # where the two crops differ
    inputs = AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
    with torch.no_grad():
        expected = image_embedding(read(folder), name, inputs)
    encoder = load(folder)
    assert encoder.details["preprocessing"]["crop_offset"] == f"rounded {offset}".strip()
    assert np.array_equal(encoder.encode_images(image), expected) == bool(offset)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["clip-projected", "siglip-vision", "dinov2", "vit-mae", "beit", "altclip"]
)
def test_images_of_another_size_get_interpolated_positions(name, tmp_path):
    folder = write(tmp_path, name)
    processor = AutoImageProcessor.from_pretrained(folder)
    sizes = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    image = clips.noise_image(50, 50)
    inputs = processor(images=image, return_tensors="pt", **sizes)
    model = read(folder)
    if name == "vit-mae":
        model.config.mask_ratio = 0.0
        inputs["noise"] = torch.arange(36)[None]
    if name != "dinov2":  # which always does so
        inputs["interpolate_pos_encoding"] = True
    with torch.no_grad():
        if name == "altclip":
            expected = embeddings_of(model.get_image_features(**inputs))
        else:
            outputs = model(**inputs)
            tokens = outputs.last_hidden_state[:, 0]
            expected = outputs.get(VISION_ZOO.get(name, OWN_ZOO.get(name))[2], tokens).numpy()
    encoder = load(folder, image_size=48)
    np.testing.assert_array_equal(encoder.encode_images(image), expected)
    assert encoder.details["image_size"] == 48
    assert encoder.details["preprocessing"]["size"] == {"shortest_edge": 48}
    assert load(folder, image_size=48, layers=[-1], pool="mean").encode_images(image).all()


def test_a_model_of_one_size_alone_says_so(naflex, tmp_path):
    fails_to_load(naflex, "takes --image-size, got one that takes images in their", image_size=48)
    error = fails_to_load(write(tmp_path, "aimv2"), "cannot encode with", image_size=48)
    assert "leave --image-size out" in error.hint


# What is read, and what is not


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dinov2", "expected a model with a text tower, got dinov2"),
        ("aimv2-lit", "got aimv2, with text embeddings that depend on their"),
    ],
)
def test_a_text_tower_that_cannot_be_used_is_refused_in_one_line(name, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        load(write(tmp_path, name), "text")


@pytest.mark.parametrize("kind", ["timesformer", "videomae", "vivit"])
def test_a_model_of_videos_is_refused_before_it_is_read(kind, tmp_path):
    clips.write_json(tmp_path / "config.json", model_type=kind)
    line = fails("embed", "shapes", "-m", tmp_path, "-o", tmp_path / "img.h5")
    assert f"expected a model that clipkit reads, got model_type '{kind}'" in line
    assert "docs/encoders.md" in line


def test_unknown_kinds_and_names_list_what_is_read(tmp_path):
    clips.write_json(without_weights(tmp_path) / "config.json", model_type="bert")
    unknown_kind = refused(clipkit("info", tmp_path), 1, "got model_type 'bert'")
    for kind in (*FAMILIES, "open_clip_config.json", "timm"):
        assert kind in unknown_kind
    refused(clipkit("info", "tini"), 2, "did you mean tiny? or give a folder or a Hub repository")
    refused(clipkit("info", "no-such-model"), 2, "unknown model", "a folder or a Hub repository")
    assert "transformers" not in refused(clipkit("info", "ViT-B-23"), 2, "did you mean")


def test_a_kind_that_an_older_transformers_lacks_is_refused_with_the_version(tmp_path, monkeypatch):
    clips.write_json(tmp_path / "config.json", model_type="radio")
    older = SimpleNamespace(__version__="5.4.0")  # without any model
    monkeypatch.setattr("clipkit.models.transformers_models.import_library", lambda _name: older)
    with pytest.raises(ClipkitError, match=r"expected transformers 5\.13 or newer.* got 5\.4\.0"):
        models.describe_model(str(without_weights(tmp_path)))


def without_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not to be read")
    return folder


@pytest.mark.long
@pytest.mark.parametrize("tensor", ["head.probe", "head.mlp.fc1.weight"])
def test_a_pooler_that_the_weights_lack_is_never_drawn_at_random(tensor, tmp_path):
    folder = clips.tiny_siglip(tmp_path / "siglip")
    without_tensor(f"vision_model.{tensor}")(folder)
    fails_to_load(folder, f"missing: vision_model.{tensor}")
    config = transformers.SiglipVisionConfig(**clips.SMALL_VISION)
    alone = tmp_path / "vision"
    transformers.SiglipVisionModel(config).save_pretrained(alone)
    (folder / "preprocessor_config.json").rename(alone / "preprocessor_config.json")
    (name,) = [name for name in load_file(alone / "model.safetensors") if name.endswith(tensor)]
    without_tensor(name)(alone)
    fails_to_load(alone, f"missing: .*{tensor}")


# Classes that people publish


def blip_for_retrieval(folder):
    """Write a small BLIP as it is published for retrieval, and return it."""
    clips.tiny_chinese_clip(folder)  # it has a tokenizer of BERT, and a processor
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    words = {**SMALL_TOWER, "encoder_hidden_size": 32, "vocab_size": 300}
    config = transformers.BlipConfig(
        text_config=words, vision_config=SMALL_VISION, image_text_hidden_size=16
    )
    torch.manual_seed(0)
    model = transformers.BlipForImageTextRetrieval(config).eval()
    stir(model)
    model.save_pretrained(folder)
    return model


@pytest.mark.long
@versions.BLIP
def test_a_blip_for_retrieval_gives_the_cosines_of_transformers(tmp_path):
    model = blip_for_retrieval(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        PROMPTS, padding=True, return_tensors="pt", return_token_type_ids=False
    )
    images = clips.noise_images()[:3]
    pixels = [processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
    with torch.no_grad():
        expected = model(**tokens, pixel_values=torch.cat(pixels), use_itm_head=False).itm_score
    rows, words = load(tmp_path).encode_images(images), load(tmp_path, "text").encode_texts(PROMPTS)
    found = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (rows, words)]
    clips.assert_close(found[0] @ found[1].T, expected)
    assert load(tmp_path, layers="all").details["layers"] == 2
    assert models.describe_model(str(tmp_path))["dim"] == rows.shape[1] == 16
    edit_tensors(tmp_path, lambda tensors: tensors.pop("text_proj.weight"))
    np.testing.assert_array_equal(load(tmp_path).encode_images(images), rows)
    fails_to_load(tmp_path, "missing: text_proj.weight", "text")


def test_a_classifier_of_a_dual_encoder_says_that_its_vision_model_is_read(tmp_path, capfd):
    load(write(tmp_path, "clip-classifier"))
    said = capfd.readouterr()[1]
    assert "clip-classifier: a classifier; its vision model is read, without a projection" in said
    fails_to_load(tmp_path / "clip-classifier", "expected a model with a text tower", "text")


def test_a_blip_2_for_retrieval_is_refused_with_the_next_step(tmp_path):
    clips.write_json(
        tmp_path / "config.json",
        model_type="blip-2",
        architectures=["Blip2ForImageTextRetrieval"],
    )
    error = fails_to_load(tmp_path, "got Blip2ForImageTextRetrieval, which compares a text with")
    assert "docs/encoders.md shows how" in error.hint
