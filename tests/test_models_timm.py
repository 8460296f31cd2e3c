"""Models of timm: each gives what plain timm gives, with its own transform."""

import functools
import math
import os
import shutil
import sys
import weakref

import numpy as np
import pytest
import timm
import torch
import transformers
import versions
from factories import clips
from factories.clips import edit_tensors
from factories.zoo import (
    TIMM_INPUT,
    TIMM_VIT,
    changed,
    fails_to_load,
    load,
    stir,
    stored,
    without_tensor,
    write_timm_model,
)
from factories.zoo import TIMM_VIT_ARGUMENTS as VIT

from clipkit import models
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.models import hub

INPUT = TIMM_INPUT
SMALL_STAGES = {"layers": [1, 1, 1, 1]}
# folder -> architecture, settings in model_args, changes of pretrained_cfg, and timm's pooling
ZOO = {
    "vit": (*TIMM_VIT, "token"),
    "vit-avg": (
        *("vit_tiny_patch16_224.augreg_in21k", {**VIT, "global_pool": "avg", "class_token": False}),
        *({**INPUT, "crop_mode": "border"}, "avg"),
    ),
    "deit-distilled": ("deit_tiny_distilled_patch16_224.fb_in1k", VIT, INPUT, "token"),
    "dinov2": (
        *("vit_small_patch14_dinov2.lvd142m", {**VIT, "img_size": 518, "patch_size": 14}),
        *({}, "token"),
    ),
    "dinov2-registers": ("vit_small_patch14_reg4_dinov2.lvd142m", VIT, INPUT, "token"),
    "siglip": ("vit_base_patch16_siglip_224.webli", VIT, INPUT, "map"),
    "eva02": ("eva02_tiny_patch14_224.mim_in22k", {**VIT, "num_heads": 4}, INPUT, "avg"),
    "beit": ("beit_base_patch16_224.in22k_ft_in22k_in1k", VIT, INPUT, "avg"),
    "convnext": (
        *("convnext_atto.d2_in1k", {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}),
        *(INPUT, "avg"),
    ),
    "resnet": ("resnet18.a1_in1k", SMALL_STAGES, {**INPUT, "crop_pct": 1.0}, "avg"),
    "resnetv2": ("resnetv2_50.a1h_in1k", SMALL_STAGES, INPUT, "avg"),
    "fastvit": ("fastvit_t8.apple_in1k", SMALL_STAGES, INPUT, "avg"),
    "efficientnet": ("test_efficientnet.r160_in1k", {}, INPUT, "avg"),
    "mobilenet": ("mobilenetv3_small_050.lamb_in1k", {}, INPUT, "avg"),
    "pvt": (
        *("pvt_v2_b0", {"embed_dims": [8, 16, 20, 32], "depths": [1, 1, 1, 1]}),
        *(INPUT, "avg"),
    ),
    "swin": (
        "swin_tiny_patch4_window7_224.ms_in1k",
        {"img_size": 56, "embed_dim": 12, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 2, 4]},
        *({"input_size": [3, 56, 56]}, "avg"),
    ),
}
TOKENS = list(ZOO)[:8]
# The layers of feature pyramids; 0 where they begin with the input of the first stage.
MAPS = {
    **{"convnext": range(5), "resnet": range(5), "resnetv2": range(5), "fastvit": range(5)},
    **{"efficientnet": range(6), "mobilenet": range(7), "swin": range(1, 5)},
    "pvt": range(1, 5),
}


def write_model(folder, name):
    return write_timm_model(folder, *ZOO[name][:3])


@pytest.fixture(scope="module", params=ZOO)
def zoo(request, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("zoo") / request.param, request.param)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "vit", "vit")


def plain_timm(folder):
    """Return a model and its transform, as the documentation of timm loads them."""
    versions.need(versions.TIMM)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    settings = timm.data.resolve_model_data_config(model)
    return model, timm.data.create_transform(**settings, is_training=False)


def by_timm(folder, batch_size=1):
    """Return the embeddings of the noise images by plain timm, one at a time or in batches."""
    # the last bits of a model that was made in inference mode may differ
    model, transform = plain_timm(folder)
    pixels = torch.stack([transform(image) for image in clips.noise_images()])
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in pixels.split(batch_size)]).numpy()


def test_embeddings_are_those_of_plain_timm(zoo):
    encoder = load(zoo)
    expected = by_timm(zoo)
    rows = np.concatenate([encoder.encode_images(image) for image in clips.noise_images()])
    np.testing.assert_array_equal(rows, expected)
    together = encoder.encode_images(clips.noise_images())
    np.testing.assert_array_equal(together, by_timm(zoo, batch_size=len(together)))
    assert encoder.details["embedding"] == ZOO[zoo.name][3]
    assert encoder.details["library"] == f"timm {timm.__version__}"
    assert encoder.dim == expected.shape[1] == models.describe_model(str(zoo))["dim"]


def test_half_precision_is_close(zoo):
    assert clips.cosines(clips.embed_noise(zoo, precision="bf16"), by_timm(zoo)).min() >= 0.999


def test_the_untrained_control_has_the_architecture_and_no_weights(zoo):
    clips.check_untrained_control(zoo)


def test_a_model_is_described(vit):
    described = models.describe_model(str(vit))
    assert described["family"] == "vit_tiny_patch16_224"
    assert described["image"] == {
        **{"layers": 3, "width": 32, "patch_size": 8, "image_size": 32, "embedding": "token"}
    }
    model, _ = plain_timm(vit)
    assert described["parameters"] == sum(map(torch.numel, model.parameters()))


@pytest.mark.long
def test_the_history_has_the_settings_of_the_transform(tmp_path):
    folder = write_model(tmp_path / "dinov2", "dinov2")
    assert load(folder).details["preprocessing"] == {
        **{"input_size": [3, 518, 518], "interpolation": "bicubic"},
        **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        **{"crop_pct": 1.0, "crop_mode": "center"},
    }


@pytest.mark.long
@pytest.mark.parametrize("name", ["eva02", "beit"])
def test_the_norm_of_the_pooled_tokens_gives_the_embedding(name, tmp_path):
    folder = write_model(tmp_path / name, name)
    last = clips.embed_noise(folder, layers=[-1], pool="mean", norm=True)
    np.testing.assert_array_equal(last, clips.embed_noise(folder))


@pytest.mark.long
@pytest.mark.parametrize("name", [*TOKENS, *MAPS])
def test_hidden_states_are_those_of_timm(name, tmp_path):
    folder = write_model(tmp_path / name, name)
    encoder = load(folder, layers="all", pool="mean")
    rows = encoder.encode_images(clips.noise_images())
    model, transform = plain_timm(folder)
    pixels = torch.stack([transform(image) for image in clips.noise_images()])
    every = {"extra_blocks": True} if name in ("efficientnet", "mobilenet") else {}
    with torch.inference_mode():
        states = model.forward_intermediates(pixels, intermediates_only=True, **every)
    assert list(encoder.columns) == list(MAPS.get(name, range(len(states) + 1)))
    for layer in range(1, encoder.details["layers"] + 1):
        mean = states[layer - encoder.details["layers"] - 1].mean(dim=(-2, -1)).numpy()
        clips.assert_close(rows[:, encoder.columns[layer]], mean)


def test_blocks_above_the_highest_layer_are_not_run(vit):
    encoder = load(vit, layers=[0, 1])
    encoder._tower.stack.layers[1].register_forward_hook(lambda *_: pytest.fail("block 2 was run"))
    assert encoder.encode_images(clips.noise_images()).shape[1] == 64


def test_the_tokens_of_one_layer_alone_are_in_memory(vit):
    encoder = load(vit, layers="all")
    outputs = []
    alive = []

    def count(_block, _inputs, output):
        alive.append(sum(reference() is not None for reference in outputs))
        outputs.append(weakref.ref(output))

    for block in encoder._tower.stack.layers:
        block.register_forward_hook(count)
    encoder.encode_images(clips.noise_images())
    assert alive[-3:] == [0, 1, 1]  # the input of the block
    pooled = encoder._tower._pool(torch.zeros(2, 17, 32), {})
    assert pooled.untyped_storage().nbytes() == pooled.nbytes


@pytest.mark.parametrize("name", ["swin", "pvt"])
def test_a_model_whose_first_input_is_no_map_has_no_layer_0(name, tmp_path):
    folder = write_model(tmp_path / name, name)
    assert list(load(folder, layers="all").columns) == [1, 2, 3, 4]
    with pytest.raises(UsageError, match="layer: expected 1 to 4, or -1 to -4 from the end, got 0"):
        load(folder, layers=[0])


configure = functools.partial(changed, "config.json")
argue = functools.partial(changed, "config.json", "model_args")
preset = functools.partial(changed, "config.json", "pretrained_cfg")


def cut(folder):
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def grey(folder):
    argue(in_chans=1)(folder)
    stored(patch_embed__proj__weight=torch.zeros(32, 1, 8, 8))(folder)


DAMAGED = {
    "missing": (without_tensor("norm.weight"), "that fit config.json; missing: norm.weight"),
    "mismatched": (stored(norm__weight=torch.zeros(3)), "mismatched: norm.weight"),
    "unexpected": (stored(blocks__9__weight=torch.zeros(3)), "unexpected: blocks.9.weight"),
    "integers": (stored(norm__weight=torch.zeros(32, dtype=torch.int64)), "got I64 for norm."),
    "infinite": (stored(norm__weight=torch.full((32,), math.inf)), "expected finite weights"),
    "cut": (cut, "expected a complete safetensors file"),
    "pickle": (pickled, "only pytorch_model.bin, a pickle, which can run code and is not read"),
    "unknown architecture": (
        configure(architecture="vit_tinny_patch16_224"),
        "expected an architecture that timm .* knows, got 'vit_tinny_patch16_224'",
    ),
    "no object": (configure(model_args=[1]), "cannot load config.json of"),
    "no preset": (configure(pretrained_cfg=None), "expected an object in pretrained_cfg, got null"),
    "a checkpoint": (
        argue(checkpoint_path="pytorch_model.bin"),
        "expected settings of an architecture in model_args, got checkpoint_path",
    ),
    "unknown argument": (argue(no_such_argument=1), "cannot load the architecture of"),
    "too wide": (argue(embed_dim=10**9), "expected numbers of at most 65,536 in model_args"),
    "too deep": (argue(depth=60_000), "expected at most 20,000 modules"),
    "wider": (argue(embed_dim=4096), "expected weights that fit config.json; mismatched"),
    "no pooling": (argue(global_pool=""), "expected a model with pooling"),
    "no crop": (preset(crop_pct=1e-9), "expected edges of 1 to 4096 pixels before the crop"),
    "random": (preset(interpolation="random"), "expected one kind of interpolation"),
    "grey": (grey, "expected 3 channels in input_size, got 1"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_folders_are_refused_in_one_line(name, vit, tmp_path):
    damage, message = DAMAGED[name]
    folder = shutil.copytree(vit, tmp_path / "model")
    damage(folder)
    fails_to_load(folder, message)


@pytest.mark.long
def test_a_huge_image_size_is_refused(tmp_path):
    folder = write_model(tmp_path / "resnet", "resnet")
    preset(input_size=[3, 60_000, 60_000])(folder)
    for use in (models.describe_model, lambda name: models.load(name, tower="image")):
        with pytest.raises(ClipkitError, match="expected edges of 1 to 4096 pixels"):
            use(str(folder))


@pytest.mark.long
def test_the_classifier_and_computed_buffers_are_left_out(vit, tmp_path):
    folder = shutil.copytree(vit, tmp_path / "model")
    expected = by_timm(folder)
    stored(head__weight=torch.zeros(3, 32))(folder)
    rows = load(folder).encode_images(clips.noise_images())
    clips.assert_close(rows, expected)
    swin = write_model(tmp_path / "swin", "swin")
    index = "layers.0.blocks.0.attn.relative_position_index"
    stored(**{index: torch.zeros(49, 49).long()})(swin)
    load(swin)  # as files of timm 0.8 have it


def test_a_name_that_timm_does_not_know_is_refused_with_near_names():
    with pytest.raises(UsageError, match="unknown model of timm") as caught:
        hub.find("timm:resnet18.a1_in1")
    assert "resnet18.a1_in1k" in str(caught.value.hint)


def test_a_missing_extra_is_named_with_the_command(vit, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in (str(vit), "timm:resnet18"):
        error = fails_to_load(name, f"^{name}: expected the package timm")
        assert error.hint == "install it: pip install 'clipkit-vl[timm]'"


@pytest.mark.parametrize("ending", ["Model", "ForImageClassification"])
def test_a_model_that_transformers_saved_around_timm_is_read_as_timms_own(ending, tmp_path):
    architecture, arguments, _ = TIMM_VIT
    settings = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9}
    settings |= {"mean": [0.4] * 3, "std": [0.3] * 3, "crop_mode": "center"}
    config = transformers.TimmWrapperConfig(
        architecture=architecture.partition(".")[0],
        model_args=arguments,
        pretrained_cfg=settings,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"TimmWrapper{ending}")(config).eval()
    stir(model)
    model.save_pretrained(tmp_path)
    transform = timm.data.create_transform(**settings, is_training=False)
    pixels = torch.stack([transform(image.convert("RGB")) for image in clips.noise_images()])
    with torch.no_grad():
        inner = model.timm_model
        expected = inner.forward_head(inner.forward_features(pixels), pre_logits=True)
    encoder = load(tmp_path)
    clips.assert_close(encoder.encode_images(clips.noise_images()), expected)
    assert load(tmp_path, untrained=1).dim == encoder.dim == 32
    edit_tensors(tmp_path, lambda tensors: tensors.pop("timm_model.cls_token"))
    fails_to_load(tmp_path, "missing: timm_model.cls_token")
