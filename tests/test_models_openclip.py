"""OpenCLIP's models: each gives what plain open_clip gives from the same folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_factory import (
    cosines,
    edit_json,
    noise_images,
    tiny_clip,
    tiny_siglip2,
    write_json,
)
from factories import refused
from open_clip.push_to_hf_hub import save_for_hf
from PIL import Image
from safetensors.torch import load_file, save_file
from shell import clipkit, ok
from test_speed import PlainLinear

from clipkit import features, models
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.models import acceleration, hub
from clipkit.models.architecture import read_architecture
from clipkit.models.hub import find

pytestmark = pytest.mark.long

TEXTS = ["a photo of a cat", "A dog's  ball, “red” &amp; round.", "two", "naïve ﬁsh_tank!"]
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PLAIN = {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT}
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


def trunk(name: str, image_size: int, pool: str, projection: str | None = None) -> dict[str, Any]:
    """Return the settings of a model whose image tower is one of timm."""
    vision = {"timm_model_name": name, "image_size": image_size, "timm_model_pretrained": True}
    vision |= {"timm_pool": pool, "timm_proj": projection}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}


# folder -> model_cfg
ZOO: dict[str, dict[str, Any]] = {
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
            **{**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
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
SIGLIP_PIXELS = {
    **{"mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
    **{"resize_mode": "squash", "fill_color": 0},
}
PIXELS = {
    "siglip": SIGLIP_PIXELS,
    "coca": {"interpolation": "bilinear", "resize_mode": "longest", "fill_color": 7},
}


def pictures() -> list[Image.Image]:
    """Return four images of four sizes."""
    return noise_images()[-4:]


class NoTokenizer:
    """OpenAI's tokenizer, of which open_clip writes no file."""

    def save_pretrained(self, folder: Path) -> None:
        pass


def write_model(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Write a model with random weights as open_clip publishes one."""
    folder.mkdir(parents=True)
    write_json(folder / "open_clip_config.json", model_cfg=config)
    torch.manual_seed(seed)
    model = open_clip.create_model(
        f"local-dir:{folder}",
        load_weights=False,
        pretrained_text=False,
        force_preprocess_cfg=PIXELS.get(folder.name),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # layer scales may start at zero
    save_for_hf(model, NoTokenizer(), config, folder, safe_serialization=True)
    if config["text_cfg"].get("tokenizer_kwargs"):
        gemma = tiny_siglip2(folder.with_name(f"{folder.name}-tokenizer"))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(gemma / name, folder)
    return folder


@pytest.fixture(scope="module", params=ZOO)
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("zoo") / request.param, ZOO[request.param])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "clip", PLAIN)


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copied"))


@lru_cache(2)
def reference(folder: Path) -> tuple[Any, Any, Any]:
    """Return model, image transform and tokenizer of a folder by plain open_clip."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def by_open_clip(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of the pictures, one by one, and of TEXTS by plain open_clip."""
    model, preprocess, tokenizer = reference(folder)
    with torch.inference_mode():
        images = [
            model.encode_image(preprocess(image)[None], normalize=False) for image in pictures()
        ]
        texts = model.encode_text(tokenizer(TEXTS), normalize=False)
    return torch.cat(images).numpy(), texts.numpy()


@lru_cache(2)
def load(folder: Path, tower: Any, precision: str = "fp32") -> models.Encoder:
    return models.load(str(folder), tower=tower, device="cpu", precision=precision)


def test_embeddings_are_those_of_plain_open_clip(zoo: Path) -> None:
    images, texts = by_open_clip(zoo)
    image, text = load(zoo, "image"), load(zoo, "text")
    rows = np.concatenate([image.encode_images(picture) for picture in pictures()])
    np.testing.assert_array_equal(rows, images)
    np.testing.assert_array_equal(text.encode_texts(TEXTS), texts)
    three, one = image.encode_images(pictures()[:3]), rows[:3]
    np.testing.assert_allclose(three, one, atol=1e-6 * np.abs(one).max())
    assert image.dim == text.dim == images.shape[1]


@pytest.mark.exhaustive
def test_hidden_states_are_those_of_plain_open_clip(zoo: Path) -> None:
    model, preprocess, tokenizer = reference(zoo)
    pixels, tokens = preprocess(pictures()[0])[None], tokenizer(TEXTS)
    image, text = run_layers(zoo, "image", pixels), run_layers(zoo, "text", tokens)
    stack = image[0]
    layout = "NCHW" if stack.is_map else "NLC"
    with torch.inference_mode():
        expected = model.forward_intermediates(
            pixels, tokens, image_output_fmt=layout, normalize=False
        )
    own = expected["image_intermediates"]
    states = image[1] if stack.is_map else [state[:, stack.prefix :] for state in image[1]]
    for state, plain in zip(states, own[-len(states) :], strict=True):
        torch.testing.assert_close(state, plain, rtol=0, atol=0)
    for state, plain in zip(text[1], expected["text_intermediates"], strict=True):
        torch.testing.assert_close(state[:, : plain.shape[1]], plain, rtol=0, atol=0)
    prefix, has_cls = {"siglip": (1, True), "eva02": (1, True), "pe-core": (1, True)}.get(
        zoo.name, (int(not stack.is_map), not stack.is_map)
    )
    assert (stack.prefix, stack.has_cls) == (prefix, has_cls)
    assert stack.is_map == (zoo.name in ("resnet", "convnext", "mobileclip2"))


def run_layers(folder: Path, tower: Any, inputs: torch.Tensor) -> tuple[Any, list[torch.Tensor]]:
    """Return the layers of a tower, and what each returns for an input."""
    architecture = read_architecture(find(str(folder)))
    loaded = architecture.load_tower(tower, None, "fp32").tower
    stack = architecture.stack(loaded)
    states: list[torch.Tensor] = []
    for layer in stack.layers:
        layer.register_forward_hook(lambda module, inputs, output: states.append(output))
    loaded(**{"pixel_values" if tower == "image" else "input_ids": inputs})
    return stack, states


@pytest.mark.parametrize("tower", ["image", "text"])
def test_norm_and_projection_of_the_last_hidden_state_are_the_embedding(
    plain: Path, tower: str
) -> None:
    model, preprocess, tokenizer = reference(plain)
    tokens = tokenizer(TEXTS)
    inputs = preprocess(pictures()[0])[None] if tower == "image" else tokens
    stack, states = run_layers(plain, tower, inputs)
    with torch.inference_mode():
        normed = stack.norm(states[-1])
        if tower == "image":
            embeddings, expected = normed[:, 0] @ model.visual.proj, model.encode_image(inputs)
        else:
            ends = tokens.argmax(dim=1)
            embeddings = normed[torch.arange(len(TEXTS)), ends] @ model.text_projection
            expected = model.encode_text(tokens)
    torch.testing.assert_close(embeddings, expected)


@pytest.mark.exhaustive
def test_text_layers_and_features_without_projection(plain: Path) -> None:
    model, preprocess, tokenizer = reference(plain)
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
    last = models.load(str(plain), tower="text", layers=[-1], norm=True, **options)
    projected = last.encode_texts(TEXTS) @ model.text_projection.detach().numpy()
    unprojected = models.load(str(plain), tower="image", projection=False, **options)
    normed = models.load(str(plain), tower="image", layers=[-1], norm=True, **options)
    image = pictures()[0]
    rows = unprojected.encode_images(image)
    with torch.inference_mode():
        texts = model.encode_text(tokenizer(TEXTS)).numpy()
        images = model.encode_image(preprocess(image)[None]).numpy()
    np.testing.assert_allclose(projected, texts, atol=1e-5)
    np.testing.assert_allclose(rows @ model.visual.proj.detach().numpy(), images, atol=1e-5)
    np.testing.assert_allclose(rows, normed.encode_images(image), atol=1e-6)
    assert unprojected.details["projection"] == "none"


@pytest.mark.exhaustive
def test_text_layers_end_with_the_pooled_token(zoo: Path) -> None:
    options: dict[str, Any] = {"tower": "text", "device": "cpu", "precision": "fp32"}
    rows = models.load(str(zoo), layers=[-1], norm=True, **options).encode_texts(TEXTS)
    stack, states = run_layers(zoo, "text", reference(zoo)[2](TEXTS))
    with torch.inference_mode():
        normed = stack.norm(states[-1]).numpy()
    ends = {"clipa": -1, "siglip": -1, "coca": -1}.get(zoo.name)
    if ends is None:
        places = reference(zoo)[2](TEXTS).argmax(dim=1).numpy()
        expected = normed[np.arange(len(TEXTS)), places]
    else:
        expected = normed[:, ends]
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.exhaustive
def test_half_precision_is_close(zoo: Path) -> None:
    images, texts = by_open_clip(zoo)
    assert cosines(load(zoo, "image", "bf16").encode_images(pictures()), images).min() >= 0.999
    assert cosines(load(zoo, "text", "bf16").encode_texts(TEXTS), texts).min() >= 0.999


def test_a_model_is_described(zoo: Path) -> None:
    described = models.describe_model(str(zoo))
    image, text = described["image"], described["text"]
    whole, _, _ = reference(zoo)
    assert described["parameters"] == sum(tensor.numel() for tensor in whole.state_dict().values())
    assert (image["layers"], image["width"]) > (0, 0)
    assert (text["layers"], text["width"], text["heads"]) == (2, 32, 2)
    assert text["context_length"] in (64, 76, 77)
    activations = {"quickgelu": "quick_gelu", "resnet": "relu", "eva02": "silu"}
    activations["convnext"] = "gelu_pytorch_tanh"  # of timm's test_convnext alone
    assert image["activation"] == activations.get(zoo.name, "gelu")
    assert text["activation"] == {
        **{"quickgelu": "quick_gelu", "siglip": "gelu_pytorch_tanh"},
    }.get(zoo.name, "gelu")
    assert described["family"] in ("CLIP", "CustomTextCLIP", "CoCa")
    assert described.get("logit_bias") == (
        pytest.approx(-10, abs=0.1) if zoo.name == "siglip" else None
    )


@pytest.mark.exhaustive
def test_one_tower_is_in_memory(plain: Path) -> None:
    described = models.describe_model(str(plain))
    for tower in ("image", "text"):
        numbers = sum(
            tensor.numel() for tensor in load(plain, tower)._tower.model.state_dict().values()
        )
        assert numbers == described[tower]["parameters"]


@pytest.mark.exhaustive
def test_layers_are_packed_where_the_processor_has_bfloat16(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "PackedLinear", PlainLinear)
    encoder = models.load(str(plain), tower="image", device="cpu", precision="bf16")
    assert encoder.details["packed"]
    images, _ = by_open_clip(plain)
    assert cosines(encoder.encode_images(pictures()), images).min() >= 0.999


@pytest.mark.exhaustive
def test_the_history_records_transform_and_cleaning(tmp_path: Path, plain: Path) -> None:
    image, text = load(plain, "image"), load(plain, "text")
    assert image.details["preprocessing"] == {
        **{"processor": "image_transform_v2", "size": [32, 32], "mode": "RGB"},
        **{"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)},
        **{"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0},
    }
    assert text.details["cleaning"] == "lower"
    assert image.details["library"] == f"open_clip {open_clip.__version__}"
    assert image.details["logit_scale"] == pytest.approx(1 / 0.07, rel=0.1)
    siglip = write_model(tmp_path / "siglip", SIGLIP)
    assert load(siglip, "text").details["cleaning"] == "canonicalize"
    assert load(siglip, "image").details["preprocessing"]["resize_mode"] == "squash"
    kept = models.load(str(siglip), tower="text", clean=False)
    assert kept.details["cleaning"] == "whitespace"
    with pytest.raises(ClipkitError, match=r"text 1 .*expected letters or digits"):
        load(siglip, "text").encode_texts(["a", "?!"])


@pytest.mark.exhaustive
def test_threads_share_the_transform(plain: Path) -> None:
    encoder = load(plain, "image")
    expected = [encoder.preprocess(picture) for picture in noise_images()]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            for pixels, plain_pixels in zip(
                threads.map(encoder.preprocess, noise_images()), expected, strict=True
            ):
                torch.testing.assert_close(pixels, plain_pixels, rtol=0, atol=0)


def test_long_prompts_are_refused_by_place_or_cut(plain: Path, tmp_path: Path) -> None:
    siglip = write_model(tmp_path / "siglip", SIGLIP)
    long = "word " * 90
    for folder, limit, length in ((plain, 77, 92), (siglip, 64, 450)):
        text = load(folder, "text")
        with pytest.raises(
            ClipkitError, match=f"line 7: expected at most {limit} tokens, got {length}"
        ):
            text.encode_texts(["fine", long], places=["line 1", "line 7"])
        model, _, tokenizer = reference(folder)
        with torch.inference_mode():
            expected = model.encode_text(tokenizer([long]))
        np.testing.assert_array_equal(text.encode_texts(long, truncate=True), expected)


@pytest.mark.exhaustive
def test_an_end_token_within_a_prompt_is_refused(plain: Path) -> None:
    with pytest.raises(ClipkitError, match="expected the end token 49407 once"):
        load(plain, "text").encode_texts("a <end_of_text> b")


def test_the_untrained_control_has_the_architecture_and_no_weights(
    plain: Path, tmp_path: Path
) -> None:
    shutil.copy(plain / "open_clip_config.json", tmp_path)
    first, again, other, text = (
        models.load(str(tmp_path), tower=tower, precision="fp32", untrained=seed)
        for tower, seed in (("image", 7), ("image", 7), ("image", 8), ("text", 7))
    )
    rows = first.encode_images(pictures())
    np.testing.assert_array_equal(rows, again.encode_images(pictures()))
    assert not np.allclose(rows, other.encode_images(pictures()))
    assert first.details["weights"] == text.details["weights"] != other.details["weights"]
    torch.manual_seed(7)
    with torch.no_grad():
        whole = open_clip.model.CLIP(**PLAIN).eval()
        expected = whole.encode_text(open_clip.get_tokenizer(f"local-dir:{plain}")(TEXTS))
    np.testing.assert_array_equal(text.encode_texts(TEXTS), expected)


@pytest.mark.exhaustive
def test_weights_may_be_split_over_files(copied: Path, plain: Path) -> None:
    tensors = load_file(copied / "open_clip_model.safetensors")
    (copied / "open_clip_model.safetensors").unlink()
    names = sorted(tensors)
    files = [f"open_clip_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in part}, copied / file)
    places = {name: files[number % 2] for number, name in enumerate(names)}
    write_json(copied / "open_clip_model.safetensors.index.json", weight_map=places)
    rows = load(copied, "image").encode_images(pictures()[0])
    np.testing.assert_array_equal(rows, load(plain, "image").encode_images(pictures()[0]))


@pytest.mark.exhaustive
def test_weights_in_half_precision_are_read(copied: Path) -> None:
    edit_weights(copied, lambda tensors: {name: t.half() for name, t in tensors.items()})
    images, _ = by_open_clip(copied)
    rows = [load(copied, "image").encode_images(picture) for picture in pictures()]
    np.testing.assert_array_equal(np.concatenate(rows), images)


def edit_weights(folder: Path, edit: Any) -> None:
    path = folder / "open_clip_model.safetensors"
    save_file(edit(load_file(path)), path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("ln_final.bias"), "missing: ln_final.bias"),
        (lambda t: t.pop("logit_scale"), "missing: logit_scale"),
        (lambda t: t.update({"transformer.x": torch.zeros(2)}), "unexpected: transformer.x"),
        (
            lambda t: t.update({"text_projection": torch.zeros(32, 17)}),
            "mismatched: text_projection",
        ),
        (
            lambda t: t.update({"ln_final.bias": torch.zeros(32, dtype=torch.int32)}),
            "expected weights in floating point, got I32 for ln_final.bias",
        ),
        (
            lambda t: t.update({"ln_final.bias": torch.full([32], float("nan"))}),
            "expected finite weights, got NaN or Inf in .*ln_final.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    copied: Path, edit: Any, message: str
) -> None:
    edit_weights(copied, lambda tensors: (edit(tensors), tensors)[1])
    with pytest.raises(ClipkitError, match=message) as caught:
        models.load(str(copied), tower="text")
    assert "\n" not in caught.value.message
    if "logit_scale" not in message:
        models.load(str(copied), tower="image")  # whose tensors are not damaged


def test_damaged_files_are_refused_in_one_line(copied: Path, tmp_path: Path) -> None:
    weights = copied / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(clipkit("info", copied), 1, "expected a complete safetensors file")
    weights.rename(copied / "open_clip_pytorch_model.bin")
    done = clipkit("embed", "digits", "-m", copied, "-o", tmp_path / "x.h5")
    refused(done, 1, "expected open_clip_model.safetensors, got only", "a pickle")


def load_both(folder: Path) -> None:
    for tower in ("image", "text"):
        models.load(str(folder), tower=tower)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("model_cfg"), "expected a model_cfg with embed_dim"),
        (lambda c: c["model_cfg"].pop("text_cfg"), "expected a model_cfg with text_cfg"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(layers=10**9), "expected 1 to 1000 layers"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(image_size=10**9), "expected an image_size"),
        (lambda c: c["model_cfg"]["text_cfg"].update(context_length=10**6), "a context_length of"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(wings=2), "unexpected keyword argument"),
        (
            lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="hf-hub:mallory/vit"),
            "expected the name of a model of timm",
        ),
        (
            lambda c: c["model_cfg"]["text_cfg"].update(
                HF, tokenizer_kwargs={"trust_remote_code": True}
            ),
            "expected tokenizer_kwargs of clean, .*, got 'trust_remote_code'",
        ),
        (lambda c: c["model_cfg"]["text_cfg"].update(HF), "expected its tokenizer"),
        (lambda c: c["preprocess_cfg"].update(interpolation="magic"), "cannot load the image tr"),
    ],
)
def test_configurations_that_cannot_be_used_are_refused_in_one_line(
    copied: Path, edit: Any, message: str
) -> None:
    edit_json(copied / "open_clip_config.json", edit)
    with pytest.raises(ClipkitError, match=message) as caught:
        load_both(copied)
    assert "\n" not in caught.value.message


def test_the_missing_extra_is_one_line(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ClipkitError, match="expected the package open_clip") as caught:
        models.load(str(plain), tower="image")
    assert caught.value.hint == "install it: pip install 'clipkit-vl[openclip]'"
    with pytest.raises(UsageError, match="unknown model") as caught:
        find("ViT-B-16-quickgelu/dfn2b")
    assert "pip install 'clipkit-vl[openclip]'" in str(caught.value.hint)


@pytest.mark.exhaustive
def test_a_folder_of_two_forms_is_read_by_config_json_unless_asked(tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "both")
    own = write_model(tmp_path / "own", PLAIN)
    for file in own.iterdir():
        shutil.copy(file, folder)
    assert find(str(folder)).library == "transformers"
    encoder = models.load(f"open_clip:{folder}", tower="image", precision="fp32")
    assert encoder.details["name"] == f"open_clip:{folder}"
    images, _ = by_open_clip(own)
    np.testing.assert_array_equal(encoder.encode_images(pictures()[0]), images[:1])


@pytest.mark.exhaustive
@pytest.mark.long
def test_a_hybrid_whose_stem_is_run_once_is_built(tmp_path: Path) -> None:
    config = trunk("vitamin_small_224", 224, "avg", "linear")
    folder = tmp_path / "model"
    folder.mkdir()
    write_json(folder / "open_clip_config.json", model_cfg=config)
    encoder = models.load(str(folder), tower="image", untrained=3, precision="fp32")
    assert encoder.encode_images(pictures()[0]).shape == (1, config["embed_dim"])


@pytest.mark.exhaustive
def test_counts_of_batches_may_be_missing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mobileclip2", ZOO["mobileclip2"])
    image = pictures()[0]
    expected = load(folder, "image").encode_images(image)
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    counts = [name for name in weights if name.endswith("num_batches_tracked")]
    assert counts
    save_file({name: tensor for name, tensor in weights.items() if name not in counts}, path)
    np.testing.assert_array_equal(load(folder, "image").encode_images(image), expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["roberta", "mt5"])
def test_a_text_tower_of_transformers_is_built_from_the_local_cache(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub_constants
    import transformers

    sizes = {"vocab_size": 512, "pad_token_id": 1}
    if kind == "roberta":
        tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.RobertaConfig(**sizes, **tower, intermediate_size=64)
    else:
        tower = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        config = transformers.MT5Config(**sizes, **tower)
    snapshot = tmp_path / "cache" / "models--org--text" / "snapshots" / ("0" * 40)
    config.save_pretrained(snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    text = {"hf_model_name": str(snapshot), **HF, "hf_pooler_type": "mean_pooler"}
    text |= {"tokenizer_kwargs": {"clean": "whitespace"}, "context_length": 64}
    own = write_model(tmp_path / "own", {**PLAIN, "text_cfg": text})
    published = Path(shutil.copytree(own, tmp_path / "published"))
    edit_json(
        published / "open_clip_config.json",
        lambda content: content["model_cfg"]["text_cfg"].update(hf_model_name="org/text"),
    )
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    images, texts = by_open_clip(own)
    np.testing.assert_array_equal(load(published, "text").encode_texts(TEXTS), texts)
    np.testing.assert_array_equal(load(published, "image").encode_images(pictures()[0]), images[:1])
    assert models.describe_model(str(published))["text"]["layers"] == 2
    with pytest.raises(UsageError, match="own, got one of transformers"):
        models.load(str(published), tower="text", layers=[-1])
    parts = models.load(str(published), tower="text").parts
    edit_json(snapshot / "config.json", lambda content: content.update(pad_token_id=0))
    others = models.load(str(published), tower="text").parts
    assert {name for name in parts if parts[name] != others[name]} == {"text_cfg/config.json"}
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ClipkitError, match="cannot fetch org/text"):
        models.load(str(published), tower="text")


def test_short_names_are_those_of_open_clip() -> None:
    for name, repository in hub.OPEN_CLIP_ALIASES.items():
        architecture, _, tag = name.partition("/")
        entry = open_clip.get_pretrained_cfg(architecture, tag)
        assert entry["hf_hub"] == repository.removeprefix("open_clip:") + "/"


@pytest.mark.exhaustive
def test_other_names_are_looked_up_in_the_table_of_open_clip() -> None:
    assert hub.look_up("coca_ViT-B-32/laion2b_s13b_b90k") == (
        "open_clip:laion/CoCa-ViT-B-32-laion2B-s13B-b90k"
    )
    assert hub.look_up("org/model") is None
    for name in ("EVA02-B-16/merged2b_s8b_b13k", "ViT-B-33/laion2b_s34b_b79k"):
        with pytest.raises(UsageError, match="unknown model") as caught:
            find(name)
        assert str(caught.value.hint).startswith("did you mean ")
    refused(clipkit("info", "ViT-B-32/laion2b_s34b_b79"), 2, "did you mean ViT-B-32/laion2b_s34b")


@pytest.mark.exhaustive
def test_the_commands_work_from_end_to_end(plain: Path, tmp_path: Path) -> None:
    images, texts = tmp_path / "img.h5", tmp_path / "txt.h5"
    ok("embed", "digits", "--limit", 40, "-m", plain, "-o", images)
    ok("textembed", "--classes", images, "-o", texts)
    ok("logits", images, texts, "-o", tmp_path / "logits.h5")
    assert "acc1" in ok("zeroshot", tmp_path / "logits.h5").stdout
    embedded = features.read(str(images))
    assert embedded.splits["test"].features.shape == (40, 16)
    assert embedded.history[0]["model"]["library"].startswith("open_clip")
    assert "activation" in ok("info", plain).stdout


@pytest.mark.exhaustive
def test_help_does_not_import_open_clip() -> None:
    script = "import sys; from clipkit.models import hub; print('open_clip' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.exhaustive
def test_hidden_states_in_half_precision_are_close(plain: Path) -> None:
    options: dict[str, Any] = {"tower": "image", "device": "cpu", "layers": "all"}
    half = models.load(str(plain), precision="bf16", **options).encode_images(pictures())
    whole = models.load(str(plain), precision="fp32", **options).encode_images(pictures())
    assert cosines(half, whole).min() >= 0.999
