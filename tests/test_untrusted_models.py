"""A stranger's model: only its safetensors are read, and its template and processor have limits."""

import pickle
import shutil

import numpy as np
import pytest
from canary import Canary
from factories.clips import edit_json, edit_tensors, tiny_clip, tiny_siglip
from factories.vlm_zoo import FAMILIES, QUESTION
from factories.zoo import TIMM_VIT, write_timm_model, write_vision_model
from PIL import Image
from shell import fails

from clipkit import models
from clipkit.base.errors import ClipkitError
from clipkit.models.libraries import within_limits

pytestmark = pytest.mark.long

FORMS = {
    "clip": tiny_clip,
    "siglip": tiny_siglip,
    "dinov2": lambda folder: write_vision_model(folder, "dinov2"),
    "timm": lambda folder: write_timm_model(folder, *TIMM_VIT),
    "llava": FAMILIES["llava"],
}
RUN = ("embed", "digits", "--split", "test", "--limit", 20, "-b", 4, "--ask", QUESTION)
DECOYS = ("adapter_model.bin", "pytorch_model.bin", "model.bin", "training_args.bin")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    FAMILIES["llava"](folder)
    return folder


@pytest.fixture
def copied(llava, tmp_path):
    return shutil.copytree(llava, tmp_path / "copy")


def embedding(folder, **options):
    ask = QUESTION if (folder / "chat_template.jinja").exists() else None
    encoder = models.load(str(folder), tower="image", ask=ask, precision="fp32", **options)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    return encoder.encode_images(Image.fromarray(pixels)), encoder.details


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", [None, "adapter_model.bin", "decoy.safetensors"])
def test_weights_beside_a_model_are_never_read(form, named, tmp_path):
    folder, canary = tmp_path / "model", tmp_path / "canary"
    FORMS[form](folder)
    expected, details = embedding(folder)
    for decoy in DECOYS:
        (folder / decoy).write_bytes(pickle.dumps({"logit_scale": Canary(canary)}))
    shutil.copy(folder / "model.safetensors", folder / "decoy.safetensors")
    edit_tensors(folder, lambda tensors: [t.zero_() for t in tensors.values()], "decoy.safetensors")
    if named:
        edit_json(
            folder / "config.json", lambda content: content.update(transformers_weights=named)
        )
    found, decoyed = embedding(folder)
    np.testing.assert_array_equal(found, expected)
    assert decoyed["weights"] == details["weights"]
    assert not canary.exists()


LARGE = 10**9
TEMPLATES = {  # what takes memory or time without end, or kills the process
    "a long text": "{{ 'a' * 5000000000 }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}",
    "a power": "{{ 9 ** (9 ** 9) }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_without_end_is_one_line(name, copied, tmp_path, monkeypatch):
    monkeypatch.setattr("clipkit.models.libraries.MOST_SECONDS", 2)
    (copied / "chat_template.jinja").write_text(TEMPLATES[name])
    line = fails(*RUN, "-m", copied, "-o", tmp_path / "img.h5")
    assert "copy: expected a step of at most 2 GiB and 2 s, got one" in line


def test_a_prompt_is_bounded_as_other_prompts_are(copied, tmp_path):
    template = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").write_text(template + "{{ 'a' * 10000 }}")
    line = fails(*RUN, "-m", copied, "-o", tmp_path / "img.h5")
    assert "copy: expected a prompt of at most 10,000 characters, got 10," in line


SETTINGS = {
    "too many tokens": ({"num_additional_image_tokens": 2**18}, "expected at most 131,072 tokens"),
    "far too many": ({"num_additional_image_tokens": LARGE}, "expected a step of at most 2 GiB"),
    "no memory for as many": ({"num_additional_image_tokens": LARGE**2}, "cannot prepare an image"),
    "huge pixels": ({"size": {"height": 10**5, "width": 10**5}}, "expected a step of at most"),
    "many pixels": ({"size": {"height": 6800, "width": 6800}, "patch_size": 68}, "of pixels of"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_processor_makes_of_an_image_is_bounded(name, copied, tmp_path):
    settings, message = SETTINGS[name]

    def change(content):
        content |= settings
        content["image_processor"] |= settings

    edit_json(copied / "processor_config.json", change)
    assert message in fails(*RUN, "-m", copied, "-o", tmp_path / "img.h5")


def test_a_processor_reads_no_other_model(copied):
    other = {"audio_tokenizer_class": "AutoModel", "audio_tokenizer_name_or_path": str(copied)}
    expected, _ = embedding(copied)
    edit_json(copied / "processor_config.json", lambda it: it.update(audio_tokenizer=other))
    np.testing.assert_array_equal(embedding(copied)[0], expected)


def test_a_task_with_limits_returns_its_value_or_its_reason():
    assert within_limits("count", lambda: [1, "a"]) == [1, "a"]
    with pytest.raises(ClipkitError, match=r"^cannot count: division by zero"):
        within_limits("count", lambda: 1 / 0)
    with pytest.raises(ClipkitError, match=r"^cannot count: expected a step of at most 2 GiB"):
        within_limits("count", lambda: len(bytes(2**33)))
