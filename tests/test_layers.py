"""Hidden states of towers: each is what the library passes from one layer to the next."""

import re

import numpy as np
import pytest
import torch
import transformers
from factories import clips, contents
from factories.zoo import VISION_ZOO, load, read_vision_model, write_vision_model
from shell import clipkit, fails, ok
from transformers import AutoImageProcessor

from clipkit import features, models
from clipkit.base.errors import UsageError
from clipkit.embedding import checkpoint
from clipkit.features.provenance import identities, provenance
from clipkit.models.hub import TINY
from clipkit.models.towers import LayerTower, Stack, resolve

# The tokens before the patches, CLS first, of those models of the zoo that have one.
PREFIX = {
    **dict.fromkeys(("clip", "clip-vision", "clip-projected", "dinov2", "dinov2-classifier"), 1),
    **dict.fromkeys(("vit", "vit-classifier", "vit-mae"), 1),
    **dict.fromkeys(("metaclip2-vision", "metaclip2-projected", "dinov3-unregistered"), 1),
    **dict.fromkeys(("dinov2-registers", "dinov3", "radio"), 5),
}
LAYER_CLASSES = re.compile(r"(Encoder|ViT|MAE|Dinov2|WithRegisters|IJepa|Radio)Layer$|Stage$")
DUAL = {"clip": clips.tiny_clip, "siglip": clips.tiny_siglip}


@pytest.fixture(scope="module", params=[*VISION_ZOO, *DUAL])
def zoo(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / request.param
    if request.param in DUAL:
        return DUAL[request.param](folder)
    return write_vision_model(folder, request.param)


def image_tower(folder):
    """Return the image tower by plain transformers, without a projection."""
    if folder.name in DUAL:
        return clips.in_memory(transformers.AutoModel.from_pretrained(folder).vision_model)
    return read_vision_model(folder)


def run(model, folder, image, **options):
    """Return what a tower of plain transformers returns for an image."""
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    if folder.name == "vit-mae":
        model.config.mask_ratio = 0.0
        options["noise"] = torch.arange(16)[None]
    with torch.no_grad():
        return model(pixel_values=pixels, **options)


def states_by_transformers(folder, image):
    """Return the hidden states 0..n of an image; a hook reads the last, which may be normed."""
    model = image_tower(folder)
    layers = [m for m in model.modules() if LAYER_CLASSES.search(type(m).__name__)]
    layers = [m for m in layers if type(m) is type(layers[-1])]
    last = []
    layers[-1].register_forward_hook(lambda _layer, _inputs, output: last.append(output))
    outputs = run(model, folder, image, output_hidden_states=True)
    states = [*outputs.hidden_states[:-1], last[0]]
    assert len(states) == len(layers) + 1
    return states


def pooled(states, pool, prefix):
    if states[0].ndim == 4:
        rows = [state.mean(dim=(-2, -1)) for state in states]
    elif pool == "cls":
        rows = [state[:, 0] for state in states]
    else:
        rows = [state[:, prefix:].mean(dim=1) for state in states]
    return torch.cat(rows, dim=1).numpy()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_hidden_states_are_those_of_plain_transformers(zoo, pool):
    prefix = PREFIX.get(zoo.name, 0)
    if pool == "cls" and not prefix:
        with pytest.raises(UsageError, match="expected a model with a CLS token"):
            load(zoo, layers="all", pool=pool)
        return
    encoder = load(zoo, layers="all", pool=pool)
    for image in clips.noise_images()[3:6]:
        states = states_by_transformers(zoo, image)
        np.testing.assert_array_equal(encoder.encode_images(image), pooled(states, pool, prefix))
        widths = [columns.stop - columns.start for columns in encoder.columns.values()]
        assert widths == [state.shape[-3 if state.ndim == 4 else -1] for state in states]
    described = models.describe_model(str(zoo))
    assert described["image"]["layers"] == encoder.details["layers"] == len(encoder.columns) - 1
    default = load(zoo, layers=[-1])
    assert default.details["pool"] == ("cls" if prefix else "mean")
    assert default.details["layer"] == encoder.details["layers"]
    assert not {"embedding", "logit_scale"} & default.details.keys()


def test_the_final_norm_is_that_of_the_library(zoo):
    if zoo.name == "radio":
        with pytest.raises(UsageError, match="expected a model that normalises all tokens"):
            load(zoo, layers=[-1], norm=True)
        return
    image = clips.noise_images()[3]
    rows = load(zoo, layers=[-1], norm=True).encode_images(image)
    model = image_tower(zoo)
    outputs = run(model, zoo, image)
    if "convnext" in zoo.name:
        expected = outputs.pooler_output
        with pytest.raises(UsageError, match="expected a layer of the width of the final norm"):
            load(zoo, layers=[1], norm=True)
    elif zoo.name.startswith(("clip", "metaclip2")):  # whose last_hidden_state is not normed
        inner = getattr(model, "vision_model", model)
        with torch.no_grad():
            expected = inner.post_layernorm(outputs.last_hidden_state)[:, 0]
    elif zoo.name in PREFIX:
        expected = outputs.last_hidden_state[:, 0]
    else:
        expected = outputs.last_hidden_state.mean(dim=1)
    np.testing.assert_array_equal(rows, expected.numpy())


def test_half_precision_is_close_and_packed_layers_are_read(zoo):
    plain = load(zoo, precision="bf16")
    half = load(zoo, precision="bf16", layers="all", pool="mean")
    full = load(zoo, layers="all", pool="mean")
    assert half.details.get("packed") == plain.details.get("packed")
    a, b = half.encode_images(clips.noise_images()), full.encode_images(clips.noise_images())
    for columns in full.columns.values():
        assert clips.cosines(a[:, columns], b[:, columns]).min() >= 0.998


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny", "clip", "clip-projected"])
def test_the_last_layer_with_norm_and_projection_is_the_embedding(name, tmp_path):
    folder = {
        "tiny": lambda: TINY,
        "clip": lambda: clips.tiny_clip(tmp_path / name),
        "clip-projected": lambda: write_vision_model(tmp_path / name, name),
    }[name]()
    images = clips.noise_images()
    embeddings = load(folder).encode_images(images)
    last = load(folder, layers=[-1], norm=True).encode_images(images)
    unprojected = load(folder, projection=False)
    np.testing.assert_array_equal(unprojected.encode_images(images), last)
    assert unprojected.details["projection"] == "none"
    assert unprojected.dim == last.shape[1]
    kind = "CLIPVisionModelWithProjection" if name == "clip-projected" else "CLIPModel"
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        projected = model.visual_projection(torch.from_numpy(last)).numpy()
    clips.assert_close(projected, embeddings)


def test_without_a_projection_there_is_none_to_leave_out(tmp_path):
    with pytest.raises(UsageError, match="expected a model with a projection, got siglip, which"):
        load(clips.tiny_siglip(tmp_path / "siglip"), projection=False)


@pytest.mark.long
@pytest.mark.parametrize("write_model", [clips.tiny_clip, clips.openai_form, clips.tiny_siglip])
def test_the_last_layer_of_a_text_is_its_embedding_before_the_projection(write_model, tmp_path):
    folder = write_model(tmp_path / "model")
    texts = ["a photo of a cat", "a dog", "something that is quite a lot longer than the others"]
    embeddings = load(folder, "text").encode_texts(texts)
    encoder = load(folder, "text", layers=[-1], norm=True)
    last = torch.from_numpy(encoder.encode_texts(texts))
    assert encoder.details["layer"] == encoder.details["layers"] == 2
    assert "pool" not in encoder.details
    model = transformers.AutoModel.from_pretrained(folder)
    head = model.text_model.head if write_model is clips.tiny_siglip else model.text_projection
    with torch.no_grad():
        clips.assert_close(head(last).numpy(), embeddings)


def test_padding_is_not_in_the_mean():
    layer = torch.nn.Identity()
    stack = Stack(layers=[layer], norm=None)
    tower = LayerTower(
        lambda pixel_values, pixel_attention_mask: layer(pixel_values),
        stack,
        (0, 1),
        "mean",
        norm=False,
    )
    patches = torch.tensor([[[1.0], [3.0], [50.0]], [[1.0], [3.0], [5.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    pooled = tower(pixel_values=patches, pixel_attention_mask=mask)
    assert pooled.tolist() == [[2, 2], [3, 3]]


def test_layers_above_the_highest_are_not_run():
    seen = []
    layers = [torch.nn.Identity() for _ in range(3)]
    for number, layer in enumerate(layers, 1):
        layer.register_forward_hook(lambda *_, number=number: seen.append(number))
    model = torch.nn.Sequential(*layers)
    tower = LayerTower(
        lambda pixel_values: model(pixel_values), Stack(layers, None), (1, 0), "mean", norm=False
    )
    assert tower(pixel_values=torch.ones(2, 4, 3)).shape == (2, 6)
    assert seen == [1]
    model(torch.ones(1, 1, 1))  # no hook of the tower is left
    assert seen == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [([0, -1], (0, 4)), ([-5, 1], (0, 1)), ("all", (0, 1, 2, 3, 4)), ([3, 1], (3, 1))],
)
def test_negative_layers_count_from_the_end(layers, expected):
    assert resolve(layers, 4) == expected


# ---- the command line ----------------------------------------------------------------------------


@pytest.mark.long
def test_one_pass_over_several_layers_gives_the_files_of_each(tmp_path):
    command = ("embed", "digits", "--limit", 40, "-m", "tiny", "--normalize", "--pool", "mean")
    ok(*command, "--layers", "0-1,-1", "-o", tmp_path / "l{layer}.h5")
    assert sorted(contents(tmp_path)) == ["l0.h5", "l1.h5", "l4.h5"]
    for layer, name in ((0, "l0"), (1, "l1"), (-1, "l4")):
        ok(*command, "--layer", layer, "-o", tmp_path / "one.h5", "--force")
        assert (tmp_path / "one.h5").read_bytes() == (tmp_path / f"{name}.h5").read_bytes()
    file = features.read(tmp_path / "l4.h5")
    np.testing.assert_allclose(np.linalg.norm(file.splits["test"].features, axis=1), 1, rtol=1e-6)
    model = file.model() or {}
    expected = {"layer": 4, "layers": 4, "pool": "mean", "norm": False, "dim": 128}
    assert {key: model.get(key) for key in expected} == expected
    ok(*command, "--layer", 2, "-o", tmp_path / "named{layer}.h5")
    assert (tmp_path / "named2.h5").exists()


@pytest.mark.long
@pytest.mark.parametrize("left", ["shards", "nothing but the lock"])
def test_a_run_of_several_layers_that_was_killed_at_its_end_goes_on(left, tmp_path, monkeypatch):
    command = ("embed", "digits", "--limit", 40, "-m", "tiny", "--layers", "0,1")
    ok(*command, "-o", tmp_path / "whole{layer}.h5")
    command = (*command, "-o", tmp_path / "l{layer}.h5")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "remove", interrupt)
        assert clipkit(*command).exit_code == 130
    folder = tmp_path / "l{layer}.h5.partial"
    if left != "shards":
        for path in folder.glob("*.h5"):
            path.unlink()
    ok(*command)
    names = ["l0.h5", "l1.h5", "whole0.h5", "whole1.h5"]
    assert sorted(contents(tmp_path)) == names
    for layer in (0, 1):
        published = (tmp_path / f"l{layer}.h5").read_bytes()
        assert published == (tmp_path / f"whole{layer}.h5").read_bytes()
    assert "l0.h5 exists" in fails(*command, exit_code=2)


def interrupt(self):
    raise KeyboardInterrupt


EMBED = ("embed", "digits", "--limit", 10, "-m", "tiny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--layers 0,1 -o a.h5", "expected an output with {layer} for several layers"),
        ("--layers 0,1", "expected an output with {layer} for several layers, got standard"),
        ("--layer 1 -o {layer}/a.h5", "expected {layer} in the name of the file"),
        ("--layer 5 -o a.h5", "tiny: layer: expected 0 to 4, or -1 to -5 from the end"),
        ("--layers 4,-1 -o {layer}.h5", "expected different layers, got layer 4 twice"),
        ("--layers a -o {layer}.h5", "expected numbers such as 4 or 0,4-6,-1, got 'a'"),
        ("--layers 3-1 -o {layer}.h5", "got '3-1'"),
        ("--layers 0,3 -o old{layer}.h5", "the output old3.h5 exists"),
        ("--layer 1 --pool max -o a.h5", "unknown pool 'max'"),
        ("--pool mean -o a.h5", "expected --layers with --pool, got none"),
        ("--layer 1 --no-projection -o a.h5", "expected --layer or --no-projection"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old3.h5").write_bytes(b"old")
    assert message in fails(*EMBED, *options.split(), exit_code=2)
    assert contents(tmp_path) == {"old3.h5": b"old"}


def test_a_layer_of_texts_needs_a_layer_and_has_no_pool():
    assert "expected --layer with --norm" in fails("textembed", "generic16", "--norm", exit_code=2)
    for options, message in (
        ({"pool": "mean", "layers": [1]}, "expected no --pool with texts of"),
        ({"projection": False}, "expected no --no-projection with texts of"),
        ({"layers": []}, "expected the numbers of layers, got none"),
    ):
        with pytest.raises(UsageError, match=message):
            models.load("tiny", tower="text", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Embeddings, hidden states and unprojected features of the same images, and texts."""
    folder = tmp_path_factory.mktemp("small")
    for name, options in {
        "plain": "",
        "l3": "--layer 3",
        "l4": "--layer 4",
        "mean": "--layer 4 --pool mean",
        "normed": "--layer 4 --norm",
        "unprojected": "--no-projection",
    }.items():
        words = ("embed", "digits", "--limit", 40, "-m", "tiny", *options.split())
        ok(*words, "-o", folder / f"{name}.h5")
    for name, options in {"txt": "", "txt-l2": "--layer -1", "txt-l1": "--layer 1"}.items():
        words = ("textembed", "generic16", "-m", "tiny", *options.split())
        ok(*words, "-o", folder / f"{name}.h5")
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("images", "texts", "named"),
    [
        ("l4", "txt", "l4.h5: expected embeddings in the space of images and texts, got tiny"),
        ("mean", "txt", "got tiny layer 4 mean"),
        ("unprojected", "txt", "got tiny without projection"),
        ("plain", "txt-l2", "got tiny layer 2"),
        ("l4", "txt-l2", "got tiny layer 4 cls"),
    ],
)
def test_logits_refuse_what_is_not_in_the_space_of_texts(images, texts, named, small, tmp_path):
    command = ("logits", small / f"{images}.h5", small / f"{texts}.h5", "-o", tmp_path / "x.h5")
    assert named in fails(*command)
    assert not contents(tmp_path)
    if images == "l4":
        fails("zeroshot", small / "l4.h5")


@pytest.mark.parametrize("other", ["l3", "mean", "normed", "unprojected", "plain"])
@pytest.mark.long
def test_other_features_of_a_model_are_not_mixed(other, small, tmp_path):
    ok("probe", small / "l4.h5", "--keep", "-o", tmp_path / "p.h5")
    ok("predict", tmp_path / "p.h5", small / "l4.h5")
    for command in (
        ("concat", small / "l4.h5", small / f"{other}.h5", "-o", tmp_path / "x.h5"),
        ("predict", tmp_path / "p.h5", small / f"{other}.h5"),
        ("concat", small / "txt-l1.h5", small / "txt-l2.h5", "-o", tmp_path / "t.h5"),
    ):
        assert "hold different features of one model (tiny" in fails(*command)


@pytest.mark.long
def test_a_layer_is_named_wherever_its_model_is(small):
    names = {
        "l3": "tiny layer 3 cls",
        "l4": "tiny layer 4 cls",
        "mean": "tiny layer 4 mean",
        "normed": "tiny layer 4 cls normed",
        "unprojected": "tiny without projection",
    }
    files = [features.read(small / f"{name}.h5") for name in names]
    assert [provenance(file).model for file in files] == list(names.values())
    assert [row["model"] for row in identities(files)] == list(names.values())
    assert "file" not in identities(files)[0]
