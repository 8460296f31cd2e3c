"""Hidden states of towers: each is what the library passes from one layer to the next."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clip_factory import (
    cosines,
    edit_tensors,
    noise_images,
    openai_form,
    some_quick,
    tiny_clip,
    tiny_siglip,
)
from factories import contents
from shell import fails, ok, rows
from test_models_vision import QUICK, ZOO
from test_models_vision import write_model as write_zoo_model
from transformers import AutoImageProcessor

from clipkit import datasets, embedding, features, models
from clipkit.base.errors import UsageError
from clipkit.embedding import checkpoint
from clipkit.features import FeatureFile
from clipkit.features.history import identities, provenance
from clipkit.models.towers import LayerTower, Stack, resolve

# The tokens before the patches, CLS first, of those models of the zoo that have one.
PREFIX = {
    **dict.fromkeys(("clip", "clip-vision", "clip-projected", "dinov2", "dinov2-classifier"), 1),
    **dict.fromkeys(("vit", "vit-classifier", "vit-mae"), 1),
    **dict.fromkeys(("metaclip2-vision", "metaclip2-projected"), 1),
    **dict.fromkeys(("dinov2-registers", "dinov3", "radio"), 5),
}
LAYER_CLASSES = re.compile(r"(Encoder|ViT|MAE|Dinov2|WithRegisters|IJepa|Radio)Layer$|Stage$")
DUAL = {"clip": tiny_clip, "siglip": tiny_siglip}


@pytest.fixture(scope="module", params=some_quick([*ZOO, *DUAL], QUICK))
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / request.param
    if request.param in DUAL:
        return DUAL[request.param](folder)
    return write_zoo_model(folder, request.param)


def image_tower(folder: Path) -> Any:
    """Return the image tower by plain transformers, without a projection."""
    if folder.name in DUAL:
        model = transformers.AutoModel.from_pretrained(folder).vision_model
    else:
        model = getattr(transformers, ZOO[folder.name][2]).from_pretrained(folder)
    return model.eval()


def run(model: Any, folder: Path, image: Any, **options: Any) -> Any:
    """Return what a tower of plain transformers returns for an image."""
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    if folder.name == "vit-mae":
        model.config.mask_ratio = 0.0
        options["noise"] = torch.arange(16)[None]
    with torch.no_grad():
        return model(pixel_values=pixels, **options)


def states_by_transformers(folder: Path, image: Any) -> list[torch.Tensor]:
    """Return the hidden states 0..n of an image; a hook reads the last, which may be normed."""
    model = image_tower(folder)
    layers = [m for m in model.modules() if LAYER_CLASSES.search(type(m).__name__)]
    layers = [m for m in layers if type(m) is type(layers[-1])]
    last: list[Any] = []
    layers[-1].register_forward_hook(lambda _layer, _inputs, output: last.append(output))
    outputs = run(model, folder, image, output_hidden_states=True)
    states = [*outputs.hidden_states[:-1], last[0]]
    assert len(states) == len(layers) + 1
    return states


def pooled(states: list[torch.Tensor], pool: str, prefix: int) -> np.ndarray:
    if states[0].ndim == 4:
        return torch.cat([state.mean(dim=(-2, -1)) for state in states], dim=1).numpy()
    if pool == "cls":
        return torch.cat([state[:, 0] for state in states], dim=1).numpy()
    return torch.cat([state[:, prefix:].mean(dim=1) for state in states], dim=1).numpy()


@pytest.mark.long
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_hidden_states_are_those_of_plain_transformers(zoo: Path, pool: str) -> None:
    prefix = PREFIX.get(zoo.name, 0)
    options: dict[str, Any] = {"tower": "image", "device": "cpu", "precision": "fp32"}
    if pool == "cls" and not prefix:
        with pytest.raises(UsageError, match="expected a model with a CLS token"):
            models.load(str(zoo), layers="all", pool=pool, **options)
        return
    encoder = models.load(str(zoo), layers="all", pool=pool, **options)
    for image in noise_images()[3:6]:
        states = states_by_transformers(zoo, image)
        np.testing.assert_array_equal(encoder.encode_images(image), pooled(states, pool, prefix))
        widths = [columns.stop - columns.start for columns in encoder.columns.values()]
        assert widths == [state.shape[-3 if state.ndim == 4 else -1] for state in states]
    described = models.describe_model(str(zoo))
    assert described["image"]["layers"] == encoder.details["layers"] == len(encoder.columns) - 1
    default = models.load(str(zoo), layers=[-1], **options)
    assert default.details["pool"] == ("cls" if prefix else "mean")
    assert default.details["layer"] == encoder.details["layers"]
    assert not {"embedding", "logit_scale"} & default.details.keys()


@pytest.mark.long
def test_the_final_norm_is_that_of_the_library(zoo: Path) -> None:
    prefix = PREFIX.get(zoo.name, 0)
    options: dict[str, Any] = {"tower": "image", "device": "cpu", "precision": "fp32"}
    if zoo.name == "radio":
        with pytest.raises(
            UsageError, match="expected a model that normalises all tokens at its end"
        ):
            models.load(str(zoo), layers=[-1], norm=True, **options)
        return
    image = noise_images()[3]
    encoder = models.load(str(zoo), layers=[-1], norm=True, **options)
    rows = encoder.encode_images(image)
    model = image_tower(zoo)
    outputs = run(model, zoo, image)
    if "convnext" in zoo.name:
        expected = outputs.pooler_output
        with pytest.raises(UsageError, match="expected a layer of the width of the final norm"):
            models.load(str(zoo), layers=[1], norm=True, **options)
    elif zoo.name.startswith(("clip", "metaclip2")):  # whose last_hidden_state is not normed
        inner = getattr(model, "vision_model", model)
        with torch.no_grad():
            expected = inner.post_layernorm(outputs.last_hidden_state)[:, 0]
    elif prefix:
        expected = outputs.last_hidden_state[:, 0]
    else:
        expected = outputs.last_hidden_state.mean(dim=1)
    np.testing.assert_array_equal(rows, expected.numpy())


@pytest.mark.long
def test_half_precision_is_close_and_packed_layers_are_read(zoo: Path) -> None:
    options: dict[str, Any] = {"tower": "image", "device": "cpu"}
    plain = models.load(str(zoo), precision="bf16", **options)
    half = models.load(str(zoo), precision="bf16", layers="all", pool="mean", **options)
    full = models.load(str(zoo), precision="fp32", layers="all", pool="mean", **options)
    assert half.details.get("packed") == plain.details.get("packed")
    a, b = half.encode_images(noise_images()), full.encode_images(noise_images())
    for columns in full.columns.values():
        assert cosines(a[:, columns], b[:, columns]).min() >= 0.998


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny", "clip", "clip-projected"])
def test_the_last_layer_with_norm_and_projection_is_the_embedding(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    if name == "clip":
        tiny_clip(folder)
    elif name != "tiny":
        write_zoo_model(folder, name)
    source = name if name == "tiny" else str(folder)
    options: dict[str, Any] = {"tower": "image", "device": "cpu", "precision": "fp32"}
    images = noise_images()
    embeddings = models.load(source, **options).encode_images(images)
    last = models.load(source, layers=[-1], norm=True, **options).encode_images(images)
    unprojected = models.load(source, projection=False, **options)
    np.testing.assert_array_equal(unprojected.encode_images(images), last)
    assert unprojected.details["projection"] == "none"
    assert unprojected.dim == last.shape[1]
    location = Path(models.__file__).parents[1] / "tiny" if name == "tiny" else folder
    kind = "CLIPVisionModelWithProjection" if name == "clip-projected" else "CLIPModel"
    model = getattr(transformers, kind).from_pretrained(location, dtype=torch.float32)
    with torch.no_grad():
        projected = model.visual_projection(torch.from_numpy(last)).numpy()
    np.testing.assert_allclose(projected, embeddings, atol=1e-6 * np.abs(embeddings).max())


def test_without_a_projection_there_is_none_to_leave_out(tmp_path: Path) -> None:
    siglip = tiny_siglip(tmp_path / "siglip")
    with pytest.raises(UsageError, match="expected a model with a projection, got siglip, which"):
        models.load(str(siglip), tower="image", projection=False)


@pytest.mark.long
@pytest.mark.parametrize(
    "write_model", some_quick([tiny_clip, openai_form, tiny_siglip], [tiny_clip])
)
def test_the_last_layer_of_a_text_is_its_embedding_before_the_projection(
    write_model: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    texts = ["a photo of a cat", "a dog", "something that is quite a lot longer than the others"]
    options: dict[str, Any] = {"tower": "text", "device": "cpu"}
    embeddings = models.load(str(folder), **options).encode_texts(texts)
    encoder = models.load(str(folder), layers=[-1], norm=True, **options)
    last = torch.from_numpy(encoder.encode_texts(texts))
    assert encoder.details["layer"] == encoder.details["layers"] == 2
    assert "pool" not in encoder.details
    model = transformers.AutoModel.from_pretrained(folder)
    head = model.text_model.head if write_model is tiny_siglip else model.text_projection
    with torch.no_grad():
        projected = head(last).numpy()
    np.testing.assert_allclose(projected, embeddings, atol=1e-6)


@pytest.mark.parametrize("name", ["dinov2-registers", "dinov3"])
def test_registers_are_not_in_the_mean(name: str, tmp_path: Path) -> None:
    folder = write_zoo_model(tmp_path / name, name)
    options: dict[str, Any] = {"tower": "image", "precision": "fp32", "layers": [0, 1]}
    images = noise_images()[:2]
    before = models.load(str(folder), pool="mean", **options).encode_images(images)
    edit_tensors(folder, lambda tensors: tensors["embeddings.register_tokens"].normal_())
    after = models.load(str(folder), pool="mean", **options).encode_images(images)
    np.testing.assert_array_equal(before[:, :32], after[:, :32])
    assert not np.allclose(before[:, 32:], after[:, 32:])  # patches attend to registers


def test_padding_is_not_in_the_mean() -> None:
    model = torch.nn.Sequential(torch.nn.Identity())

    def call(pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor) -> torch.Tensor:
        return model(pixel_values)

    tower = LayerTower(call, Stack(layers=list(model), norm=None), (0, 1), "mean", norm=False)
    patches = torch.tensor([[[1.0], [3.0], [50.0]], [[1.0], [3.0], [5.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    pooled = tower(pixel_values=patches, pixel_attention_mask=mask)
    assert pooled.tolist() == [[2, 2], [3, 3]]


def test_layers_above_the_highest_are_not_run() -> None:
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
def test_negative_layers_count_from_the_end(layers: Any, expected: tuple[int, ...]) -> None:
    assert resolve(layers, 4) == expected


# ---- the command line ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    ok(
        "embed",
        "shapes",
        "--limit",
        600,
        "-m",
        "tiny",
        "--layers",
        "all",
        "-o",
        folder / "l{layer}.h5",
    )
    return folder


@pytest.mark.long
def test_the_class_arises_over_the_layers_of_tiny(shapes: Path, tmp_path: Path) -> None:
    accuracies = []
    for layer in range(5):
        (row,) = rows(ok("probe", shapes / f"l{layer}.h5", "--columns", "model,acc1").stdout)
        assert row["model"] == f"tiny layer {layer} cls"
        accuracies.append(float(row["acc1"]))
    assert accuracies == sorted(accuracies)
    assert accuracies[0] < 0.05 < 0.4 < accuracies[4]
    plain = tmp_path / "img.h5"
    ok("embed", "shapes", "--limit", 600, "-m", "tiny", "-o", plain)
    (row,) = rows(ok("probe", plain).stdout)
    assert float(row["acc1"]) > accuracies[3]


@pytest.mark.long
def test_one_pass_over_several_layers_gives_the_files_of_each(tmp_path: Path) -> None:
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
def test_an_interrupted_run_over_several_layers_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 10)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    data = datasets.load(["digits"], limit=30)
    encoder = models.load("tiny", tower="image", layers=[0, 2, 4])
    embedding.embed_images(data, encoder, str(whole / "l{layer}.h5"))
    assert sorted(contents(whole)) == ["l0.h5", "l2.h5", "l4.h5"]

    batches = []

    def stop(pixels: Any) -> Any:
        batches.append(pixels)
        if len(batches) == 4:
            raise KeyboardInterrupt
        return encoder.encode_images(pixels)

    interrupted: Any = SimpleNamespace(
        **{name: getattr(encoder, name) for name in ("details", "parts", "columns", "preprocess")},
        encode_images=stop,
        layer_details=encoder.layer_details,
    )
    output = str(broken / "l{layer}.h5")
    with pytest.raises(KeyboardInterrupt):
        embedding.embed_images(data, interrupted, output)
    assert not [name for name in contents(broken) if name.startswith("l0")]

    # now the disk is full when the second file is published
    def write_first(name: Any, file: FeatureFile, **options: Any) -> None:
        if str(name).endswith("l2.h5"):
            raise OSError("disk full")
        write(name, file, **options)

    write = features.write
    monkeypatch.setattr(features, "write", write_first)
    with pytest.raises(OSError, match="disk full"):
        embedding.embed_images(data, encoder, output)
    assert (broken / "l0.h5").exists()
    monkeypatch.setattr(features, "write", write)

    other = models.load("tiny", tower="image", layers=[0, 2])
    with pytest.raises(UsageError, match="belongs to another run"):
        embedding.embed_images(data, other, output)
    embedding.embed_images(data, encoder, output)
    assert contents(broken) == contents(whole)
    with pytest.raises(UsageError, match=r"l0\.h5 exists"):
        embedding.embed_images(data, encoder, output)


def test_a_file_that_the_run_did_not_publish_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = datasets.load(["digits"], limit=10)
    encoder = models.load("tiny", tower="image", layers=[0, 2])
    output = str(tmp_path / "l{layer}.h5")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "join", fail)
        with pytest.raises(OSError, match="disk full"):
            embedding.embed_images(data, encoder, output)
    (tmp_path / "l2.h5").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"l2\.h5 exists"):
        embedding.embed_images(data, encoder, output)
    assert (tmp_path / "l2.h5").read_bytes() == b"mine"
    embedding.embed_images(data, encoder, output, force=True)
    assert sorted(contents(tmp_path)) == ["l0.h5", "l2.h5"]


EMBED = ("embed", "digits", "--limit", 10, "-m", "tiny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "0,1", "-o", "a.h5"), "expected an output with {layer} for several layers"),
        (("--layers", "all", "-o", "a.h5"), "expected an output with {layer} for several layers"),
        (("--layers", "0,1"), "expected an output with {layer} for several layers, got standard"),
        (("--layer", "1", "-o", "{layer}/a.h5"), "expected {layer} in the name of the file"),
        (("--layer", "5", "-o", "a.h5"), "tiny: layer: expected 0 to 4, or -1 to -5 from the end"),
        (("--layers", "4,-1", "-o", "{layer}.h5"), "expected different layers, got layer 4 twice"),
        (("--layers", "a", "-o", "{layer}.h5"), "expected numbers such as 4 or 0,4-6,-1, got 'a'"),
        (("--layers", "3-1", "-o", "{layer}.h5"), "got '3-1'"),
        (("--layers", "0,3", "-o", "old{layer}.h5"), "the output old3.h5 exists"),
        (("--layers", "0,-2", "-o", "old{layer}.h5"), "the output old3.h5 exists"),
        (("--layer", "1", "--pool", "max", "-o", "a.h5"), "unknown pool 'max'"),
        (("--pool", "mean", "-o", "a.h5"), "expected --layer with --pool or --norm, got none"),
        (("--norm", "-o", "a.h5"), "expected --layer with --pool or --norm, got none"),
        (("--layer", "1", "--compile", "-o", "a.h5"), "expected --layer or --compile, got both"),
        (
            ("--layer", "1", "--no-projection", "-o", "a.h5"),
            "expected --layer or --no-projection",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old3.h5").write_bytes(b"old")
    assert message in fails(*EMBED, *options, exit_code=2)
    assert contents(tmp_path) == {"old3.h5": b"old"}


def test_a_layer_of_texts_needs_a_layer_and_has_no_pool() -> None:
    assert "expected --layer with --norm" in fails("textembed", "generic16", "--norm", exit_code=2)
    for options, message in (
        ({"pool": "mean", "layers": [1]}, "expected no pool of a text tower"),
        ({"projection": False}, "expected the image tower without projection"),
        ({"layers": [1], "compile": True}, "expected --layer or --compile, got both"),
        ({"layers": []}, "expected the numbers of layers, got none"),
    ):
        with pytest.raises(UsageError, match=message):
            models.load("tiny", tower="text", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings, hidden states and unprojected features of the same images, and texts."""
    folder = tmp_path_factory.mktemp("small")
    ok(*EMBED[:2], "--limit", 40, *EMBED[4:], "-o", folder / "plain.h5")
    for name, options in {
        "l3": ("--layer", "3"),
        "l4": ("--layer", "4"),
        "mean": ("--layer", "4", "--pool", "mean"),
        "normed": ("--layer", "4", "--norm"),
        "unprojected": ("--no-projection",),
    }.items():
        ok(*EMBED[:2], "--limit", 40, *EMBED[4:], *options, "-o", folder / f"{name}.h5")
    ok("textembed", "generic16", "-m", "tiny", "-o", folder / "txt.h5")
    ok("textembed", "generic16", "-m", "tiny", "--layer", "-1", "-o", folder / "txt-l2.h5")
    ok("textembed", "generic16", "-m", "tiny", "--layer", "1", "-o", folder / "txt-l1.h5")
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
def test_logits_refuse_what_is_not_in_the_space_of_texts(
    images: str, texts: str, named: str, small: Path, tmp_path: Path
) -> None:
    command = ("logits", small / f"{images}.h5", small / f"{texts}.h5", "-o", tmp_path / "x.h5")
    assert named in fails(*command)
    assert not contents(tmp_path)


def test_zeroshot_refuses_hidden_states(small: Path) -> None:
    fails("zeroshot", small / "l4.h5")


@pytest.mark.parametrize("other", ["l3", "mean", "normed", "unprojected", "plain"])
@pytest.mark.long
def test_other_features_of_a_model_are_not_mixed(other: str, small: Path, tmp_path: Path) -> None:
    command = ("concat", small / "l4.h5", small / f"{other}.h5", "-o", tmp_path / "x.h5")
    assert "hold different features of one model (tiny" in fails(*command)
    ok("probe", small / "l4.h5", "--keep", "-o", tmp_path / "p.h5")
    ok("predict", tmp_path / "p.h5", small / "l4.h5")
    message = fails("predict", tmp_path / "p.h5", small / f"{other}.h5")
    assert "hold different features of one model" in message
    texts = ("concat", small / "txt-l1.h5", small / "txt-l2.h5", "-o", tmp_path / "t.h5")
    assert "hold different features of one model" in fails(*texts)


@pytest.mark.long
def test_probe_cluster_compare_and_variance_take_hidden_states(
    small: Path, shapes: Path, tmp_path: Path
) -> None:
    for name in ("l3", "unprojected"):
        ok("probe", small / f"{name}.h5", "-o", tmp_path / f"{name}.h5")
        ok("cluster", small / f"{name}.h5")
    (compared,) = rows(ok("compare", tmp_path / "l3.h5", tmp_path / "unprojected.h5").stdout)
    assert compared
    ok("variance", shapes / "l4.h5", "--table", "shapes")
    ok("attributes", shapes / "l4.h5", "--table", "shapes", "--attribute", "outline")


def test_a_layer_is_named_wherever_its_model_is(small: Path) -> None:
    files = [features.read(small / f"{name}.h5") for name in ("l3", "l4", "mean", "normed")]
    files.append(features.read(small / "unprojected.h5"))
    names = ["tiny layer 3 cls", "tiny layer 4 cls", "tiny layer 4 mean", "tiny layer 4 cls normed"]
    names.append("tiny without projection")
    assert [provenance(file).model for file in files] == names
    assert [row["model"] for row in identities(files)] == names
    assert "file" not in identities(files)[0]
