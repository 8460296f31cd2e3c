"""OpenCLIP's models: each gives what plain open_clip gives from the same folder."""

import functools
import math
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import huggingface_hub.constants as hub_constants
import numpy as np
import open_clip
import pytest
import torch
import transformers
from factories import clips
from factories.zoo import (
    OPEN_CLIP,
    PlainLinear,
    changed,
    fails_to_load,
    load,
    write_open_clip_model,
)
from safetensors.torch import load_file, save_file

from clipkit import models
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.models import acceleration, hub
from clipkit.models.hub import find

pytestmark = pytest.mark.long

TEXTS = ["a photo of a cat", "A dog's  ball, “red” &amp; round.", "two", "naïve ﬁsh_tank!"]
WEIGHTS = "open_clip_model.safetensors"
PLAIN = OPEN_CLIP
VIT, TEXT = PLAIN["vision_cfg"], PLAIN["text_cfg"]
HF = {"hf_tokenizer_name": "org/model"}
SIGLIP_TEXT = {
    **{**TEXT, **HF, "context_length": 64, "vocab_size": 512, "no_causal_mask": True},
    **{"tokenizer_kwargs": {"clean": "canonicalize"}, "proj_bias": True, "pool_type": "last"},
    **{"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}},
}
SIGLIP = {
    **{"embed_dim": 64, "init_logit_bias": -10, "custom_text": True, "text_cfg": SIGLIP_TEXT},
    "vision_cfg": {
        **{"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": True},
        **{"timm_pool": "map", "timm_proj": "none"},
    },
}
COCA_TEXT = {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True}


def trunk(name, image_size, pool, projection=None):
    """Return the settings of a model whose image tower is one of timm."""
    vision = {"timm_model_name": name, "image_size": image_size, "timm_model_pretrained": True}
    vision |= {"timm_pool": pool, "timm_proj": projection}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}


# folder -> model_cfg
ZOO = {
    "clip": PLAIN,
    "quickgelu": {**PLAIN, "quick_gelu": True},
    "custom": {**PLAIN, "custom_text": True},
    "clipa": {
        "embed_dim": 16,
        "vision_cfg": {**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True},
    },
    "coca": {
        **{"embed_dim": 16, "custom_text": True, "text_cfg": COCA_TEXT},
        "vision_cfg": {
            **{**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
        },
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
    },
    "siglip": SIGLIP,
    "resnet": {**PLAIN, "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 16}},
    "eva02": trunk("eva02_tiny_patch14_224", 224, "token"),
    "convnext": {**trunk("test_convnext", 160, "", "linear"), "custom_text": False},
    "mobileclip2": trunk("fastvit_t8", 256, "avg"),
    "pe-core": trunk("vit_pe_core_tiny_patch16_384", 384, "map"),
    "wide-images": {**PLAIN, "vision_cfg": {**VIT, "image_size": [16, 32]}},
}
ACTIVATIONS = {  # of the image tower and of the text tower
    "quickgelu": ("quick_gelu", "quick_gelu"),
    "resnet": ("relu", "gelu"),
    "eva02": ("silu", "gelu"),
    "siglip": ("gelu", "gelu_pytorch_tanh"),
    "convnext": ("gelu_pytorch_tanh", "gelu"),  # of timm's test_convnext alone
}
SIGLIP_PIXELS = {
    **{"mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
    **{"resize_mode": "squash", "fill_color": 0},
}
PIXELS = {
    "siglip": SIGLIP_PIXELS,
    "coca": {"interpolation": "bilinear", "resize_mode": "longest", "fill_color": 7},
}


def pictures():
    """Return four images of four sizes."""
    return clips.noise_images()[-4:]


def write_model(folder, config):
    """Write a model with random weights as open_clip publishes one."""
    write_open_clip_model(folder, config, PIXELS.get(folder.name))
    if config["text_cfg"].get("tokenizer_kwargs"):
        gemma = clips.tiny_siglip2(folder.with_name(f"{folder.name}-tokenizer"))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(gemma / name, folder)
    return folder


@pytest.fixture(scope="module", params=ZOO)
def zoo(request, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("zoo") / request.param, ZOO[request.param])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "clip", PLAIN)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "siglip", SIGLIP)


@pytest.fixture
def copied(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "copied")


@lru_cache(2)
def reference(folder):
    """Return model, image transform and tokenizer of a folder by plain open_clip."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def by_open_clip(folder):
    """Return the embeddings of the pictures, one by one, and of TEXTS by plain open_clip."""
    model, preprocess, tokenizer = reference(folder)
    with torch.inference_mode():
        images = [
            model.encode_image(preprocess(image)[None], normalize=False) for image in pictures()
        ]
        texts = model.encode_text(tokenizer(TEXTS), normalize=False)
    return torch.cat(images).numpy(), texts.numpy()


def test_embeddings_are_those_of_plain_open_clip(zoo):
    images, texts = by_open_clip(zoo)
    image, text = load(zoo), load(zoo, "text")
    rows = np.concatenate([image.encode_images(picture) for picture in pictures()])
    np.testing.assert_array_equal(rows, images)
    np.testing.assert_array_equal(text.encode_texts(TEXTS), texts)
    three, one = image.encode_images(pictures()[:3]), rows[:3]
    clips.assert_close(three, one)
    assert image.dim == text.dim == images.shape[1]


@pytest.mark.exhaustive
def test_half_precision_is_close(zoo):
    images, texts = by_open_clip(zoo)
    image, text = load(zoo, precision="bf16"), load(zoo, "text", precision="bf16")
    assert clips.cosines(image.encode_images(pictures()), images).min() >= 0.999
    assert clips.cosines(text.encode_texts(TEXTS), texts).min() >= 0.999


def by_layer(encoder, rows):
    """Return the rows of each layer but the first, which is what enters the tower."""
    return [rows[:, columns] for columns in encoder.columns.values()][1:]


@pytest.mark.exhaustive
def test_hidden_states_are_those_of_plain_open_clip(zoo):
    model, preprocess, tokenizer = reference(zoo)
    pixels, tokens = preprocess(pictures()[0])[None], tokenizer(TEXTS)
    with torch.inference_mode():
        expected = model.forward_intermediates(pixels, tokens, normalize=False)
    image = load(zoo, layers="all", pool="mean")
    found = by_layer(image, image.encode_images(pictures()[0]))
    for rows, state in zip(found, expected["image_intermediates"][-len(found) :], strict=True):
        np.testing.assert_allclose(rows, state.mean(dim=(-2, -1)), atol=1e-5)
    if zoo.name == "coca":  # whose own states lack the token that is pooled
        return
    text = load(zoo, "text", layers="all")
    ends = tokens.argmax(dim=1)
    if zoo.name in ("clipa", "siglip"):
        ends = -1
    found = by_layer(text, text.encode_texts(TEXTS))
    for rows, state in zip(found, expected["text_intermediates"], strict=True):
        np.testing.assert_allclose(rows, state[torch.arange(len(TEXTS)), ends], atol=1e-5)


def section(name, **values):
    return lambda config: config["model_cfg"][name].update(values)


vision = functools.partial(section, "vision_cfg")
text = functools.partial(section, "text_cfg")


@pytest.mark.exhaustive
def test_text_layers_and_features_without_projection(plain):
    model, preprocess, tokenizer = reference(plain)
    image = pictures()[0]
    with torch.inference_mode():
        texts = model.encode_text(tokenizer(TEXTS)).numpy()
        images = model.encode_image(preprocess(image)[None]).numpy()
    last = load(plain, "text", layers=[-1], norm=True).encode_texts(TEXTS)
    np.testing.assert_allclose(last @ model.text_projection.detach().numpy(), texts, atol=1e-5)
    unprojected = load(plain, projection=False)
    assert unprojected.details["projection"] == "none"
    rows = unprojected.encode_images(image)
    np.testing.assert_allclose(rows @ model.visual.proj.detach().numpy(), images, atol=1e-5)
    normed = load(plain, layers=[-1], norm=True)
    clips.assert_close(rows, normed.encode_images(image))


def test_a_model_is_described(zoo):
    described = models.describe_model(str(zoo))
    image, text = described["image"], described["text"]
    whole, _, _ = reference(zoo)
    assert described["parameters"] == sum(tensor.numel() for tensor in whole.state_dict().values())
    assert (image["layers"], image["width"]) > (0, 0)
    assert (text["layers"], text["width"], text["heads"]) == (2, 32, 2)
    assert text["context_length"] in (64, 76, 77)
    assert (image["activation"], text["activation"]) == ACTIVATIONS.get(zoo.name, ("gelu", "gelu"))
    assert described["family"] in ("CLIP", "CustomTextCLIP", "CoCa")
    bias = pytest.approx(-10, abs=0.1) if zoo.name == "siglip" else None
    assert described.get("logit_bias") == bias


@pytest.mark.exhaustive
def test_layers_are_packed_where_the_processor_has_bfloat16(plain, monkeypatch):
    monkeypatch.setattr(acceleration, "PackedLinear", PlainLinear)
    encoder = load(plain, precision="bf16")
    assert encoder.details["packed"]
    images, _ = by_open_clip(plain)
    assert clips.cosines(encoder.encode_images(pictures()), images).min() >= 0.999


@pytest.mark.exhaustive
def test_the_history_records_transform_and_cleaning(siglip, plain):
    image, text = load(plain), load(plain, "text")
    assert image.details["preprocessing"] == {
        **{"processor": "image_transform_v2", "size": [32, 32], "mode": "RGB"},
        **{"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)},
        **{"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0},
    }
    assert text.details["cleaning"] == "lower"
    assert image.details["library"] == f"open_clip {open_clip.__version__}"
    assert image.details["logit_scale"] == pytest.approx(1 / 0.07, rel=0.1)
    assert load(siglip, "text").details["cleaning"] == "canonicalize"
    assert load(siglip).details["preprocessing"]["resize_mode"] == "squash"
    assert load(siglip, "text", clean=False).details["cleaning"] == "whitespace"
    with pytest.raises(ClipkitError, match=r"text 1 .*expected letters or digits"):
        load(siglip, "text").encode_texts(["a", "?!"])


@pytest.mark.exhaustive
def test_threads_share_the_transform(plain):
    encoder = load(plain)
    expected = torch.cat([encoder.preprocess(picture) for picture in clips.noise_images()])
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            pixels = list(threads.map(encoder.preprocess, clips.noise_images()))
            assert torch.equal(torch.cat(pixels), expected)


def test_long_prompts_are_refused_by_place_or_cut(plain, siglip):
    long = "word " * 90
    for folder, limit, length in ((plain, 77, 92), (siglip, 64, 450)):
        text = load(folder, "text")
        message = f"line 7: expected at most {limit} tokens, got {length}"
        with pytest.raises(ClipkitError, match=message):
            text.encode_texts(["fine", long], places=["line 1", "line 7"])
        model, _, tokenizer = reference(folder)
        with torch.inference_mode():
            expected = model.encode_text(tokenizer([long]))
        np.testing.assert_array_equal(text.encode_texts(long, truncate=True), expected)


def test_the_untrained_control_has_the_architecture_and_no_weights(plain, tmp_path):
    shutil.copy(plain / "open_clip_config.json", tmp_path)
    clips.check_untrained_control(tmp_path)
    first, other = load(tmp_path, untrained=7), load(tmp_path, untrained=8)
    text = load(tmp_path, "text", untrained=7)
    assert first.details["weights"] == text.details["weights"] != other.details["weights"]
    torch.manual_seed(7)
    with torch.no_grad():
        whole = open_clip.model.CLIP(**PLAIN).eval()
        expected = whole.encode_text(open_clip.get_tokenizer(f"local-dir:{plain}")(TEXTS))
    np.testing.assert_array_equal(text.encode_texts(TEXTS), expected)


def edit_weights(folder, edit):
    save_file(edit(load_file(folder / WEIGHTS)), folder / WEIGHTS)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("ln_final.bias", None, "missing: ln_final.bias"),
        ("logit_scale", None, "missing: logit_scale"),
        ("transformer.x", torch.zeros(2), "unexpected: transformer.x"),
        ("text_projection", torch.zeros(32, 17), "mismatched: text_projection"),
        ("ln_final.bias", torch.zeros(32, dtype=torch.int32), "got I32 for ln_final.bias"),
        ("ln_final.bias", torch.full([32], math.nan), "expected finite weights, got NaN or Inf"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(copied, name, tensor, message):
    more = {} if tensor is None else {name: tensor}
    edit_weights(copied, lambda t: {other: t[other] for other in t if other != name} | more)
    fails_to_load(copied, message, "text")
    if name != "logit_scale":
        load(copied)  # whose tensors are not damaged


def test_damaged_files_are_refused_in_one_line(copied):
    weights = copied / WEIGHTS
    os.truncate(weights, weights.stat().st_size - 100)
    fails_to_load(copied, "expected a complete safetensors file")
    weights.rename(copied / "open_clip_pytorch_model.bin")
    fails_to_load(copied, "expected open_clip_model.safetensors, got only .* a pickle")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("model_cfg"), "expected a model_cfg with embed_dim"),
        (lambda c: c["model_cfg"].pop("text_cfg"), "expected a model_cfg with text_cfg"),
        (vision(layers=10**9), "expected 1 to 1000 layers"),
        (vision(image_size=10**9), "expected an image_size"),
        (text(context_length=10**6), "a context_length of"),
        (vision(wings=2), "unexpected keyword argument"),
        (vision(timm_model_name="hf-hub:mallory/vit"), "expected the name of a model of timm"),
        (
            text(**HF, tokenizer_kwargs={"trust_remote_code": True}),
            "expected tokenizer_kwargs of clean, .*, got 'trust_remote_code'",
        ),
        (text(**HF), "expected its tokenizer"),
        (lambda c: c["preprocess_cfg"].update(interpolation="magic"), "cannot load the image tr"),
    ],
)
def test_configurations_that_cannot_be_used_are_refused_in_one_line(copied, edit, message):
    clips.edit_json(copied / "open_clip_config.json", edit)
    with pytest.raises(ClipkitError, match=message) as caught:
        load(copied), load(copied, "text")
    assert "\n" not in caught.value.message


def test_the_missing_extra_is_one_line(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    error = fails_to_load(plain, "expected the package open_clip")
    assert error.hint == "install it: pip install 'clipkit-vl[openclip]'"
    with pytest.raises(UsageError, match="unknown model") as caught:
        find("ViT-B-16-quickgelu/dfn2b")
    assert "pip install 'clipkit-vl[openclip]'" in str(caught.value.hint)


@pytest.mark.exhaustive
def test_a_folder_of_two_forms_is_read_by_config_json_unless_asked(tmp_path, plain):
    folder = clips.tiny_clip(tmp_path / "both")
    for file in plain.iterdir():
        shutil.copy(file, folder)
    assert find(str(folder)).library == "transformers"
    encoder = load(f"open_clip:{folder}")
    assert encoder.details["name"] == f"open_clip:{folder}"
    images, _ = by_open_clip(plain)
    np.testing.assert_array_equal(encoder.encode_images(pictures()[0]), images[:1])


@pytest.mark.exhaustive
def test_counts_of_batches_may_be_missing(tmp_path):
    folder = write_model(tmp_path / "mobileclip2", ZOO["mobileclip2"])
    image = pictures()[0]
    expected = load(folder).encode_images(image)
    weights = load_file(folder / WEIGHTS)
    kept = [name for name in weights if not name.endswith("num_batches_tracked")]
    assert len(kept) < len(weights)
    save_file({name: weights[name] for name in kept}, folder / WEIGHTS)
    np.testing.assert_array_equal(load(folder).encode_images(image), expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["roberta", "mt5"])
def test_a_text_tower_of_transformers_is_built_from_the_local_cache(kind, tmp_path, monkeypatch):
    sizes = {"vocab_size": 512, "pad_token_id": 1}
    if kind == "roberta":
        config = transformers.RobertaConfig(**sizes, **clips.SMALL_TOWER)
    else:
        tower = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        config = transformers.MT5Config(**sizes, **tower)
    snapshot = tmp_path / "cache" / "models--org--text" / "snapshots" / ("0" * 40)
    config.save_pretrained(snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    settings = {"hf_model_name": str(snapshot), **HF, "hf_pooler_type": "mean_pooler"}
    settings |= {"tokenizer_kwargs": {"clean": "whitespace"}, "context_length": 64}
    own = write_model(tmp_path / "own", {**PLAIN, "text_cfg": settings})
    published = shutil.copytree(own, tmp_path / "published")
    changed("open_clip_config.json", "model_cfg", "text_cfg", hf_model_name="org/text")(published)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    images, texts = by_open_clip(own)
    np.testing.assert_array_equal(load(published, "text").encode_texts(TEXTS), texts)
    np.testing.assert_array_equal(load(published).encode_images(pictures()[0]), images[:1])
    assert models.describe_model(str(published))["text"]["layers"] == 2
    shutil.copytree(snapshot, own / "towers" / "text")
    changed("open_clip_config.json", "model_cfg", "text_cfg", hf_model_name="./towers/text")(own)
    np.testing.assert_array_equal(load(own, "text").encode_texts(TEXTS), texts)
    with pytest.raises(UsageError, match="own, got one of transformers"):
        load(published, "text", layers=[-1])
    parts = load(published, "text").parts
    changed("config.json", pad_token_id=0)(snapshot)
    others = load(published, "text").parts
    assert {name for name in parts if parts[name] != others[name]} == {"text_cfg/config.json"}
    shutil.rmtree(tmp_path / "cache")
    fails_to_load(published, "cannot fetch org/text", "text")


def test_short_names_are_those_of_open_clip():
    for name, repository in hub.OPEN_CLIP_ALIASES.items():
        architecture, _, tag = name.partition("/")
        entry = open_clip.get_pretrained_cfg(architecture, tag)
        assert entry["hf_hub"] == repository.removeprefix("open_clip:") + "/"


@pytest.mark.exhaustive
def test_other_names_are_looked_up_in_the_table_of_open_clip():
    coca = "open_clip:laion/CoCa-ViT-B-32-laion2B-s13B-b90k"
    assert hub.look_up("coca_ViT-B-32/laion2b_s13b_b90k") == coca
    assert hub.look_up("org/model") is None
    for name in ("EVA02-B-16/merged2b_s8b_b13k", "ViT-B-33/laion2b_s34b_b79k"):
        with pytest.raises(UsageError, match="unknown model") as caught:
            find(name)
        assert str(caught.value.hint).startswith("did you mean ")
