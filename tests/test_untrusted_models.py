"""A stranger's model: only its safetensors are read, and its template and processor have limits."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from canary import Canary
from factories.clips import edit_json, edit_tensors, tiny_clip, tiny_siglip, write_json
from factories.vlm_zoo import FAMILIES, QUESTION
from factories.zoo import (
    TIMM_VIT,
    write_open_clip_model,
    write_timm_model,
    write_vision_model,
)
from PIL import Image
from safetensors.torch import load_file
from shell import environment, fails, ok, shell

from clipkit import models
from clipkit.models.folders import CONVERSION
from clipkit.models.towers import Tower

pytestmark = pytest.mark.long

PAGE = Path(__file__).parents[1] / "docs" / "commands" / "embed-models.md"
FORMS = {
    "clip": tiny_clip,
    "siglip": tiny_siglip,
    "dinov2": lambda folder: write_vision_model(folder, "dinov2"),
    "timm": lambda folder: write_timm_model(folder, *TIMM_VIT),
    "open_clip": write_open_clip_model,
    "llava": FAMILIES["llava"],
}
RUN = ("embed", "digits", "--split", "test", "--limit", 20, "-b", 4, "--ask", QUESTION)
DECOYS = ("adapter_model.bin", "pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pt")


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


def set_to_zero(tensors):
    for tensor in tensors.values():
        tensor.zero_()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", [None, "adapter_model.bin", "decoy.safetensors"])
def test_weights_beside_a_model_are_never_read(form, named, tmp_path):
    folder, canary = tmp_path / "model", tmp_path / "canary"
    FORMS[form](folder)
    expected, details = embedding(folder)
    for decoy in DECOYS:
        (folder / decoy).write_bytes(pickle.dumps({"logit_scale": Canary(canary)}))
    stem = "open_clip_model" if form == "open_clip" else "model"
    for decoy in {"decoy", "model", "open_clip_model"} - {stem}:
        shutil.copy(folder / f"{stem}.safetensors", folder / f"{decoy}.safetensors")
        edit_tensors(folder, set_to_zero, f"{decoy}.safetensors")
    config = "open_clip_config.json" if form == "open_clip" else "config.json"
    if named:
        edit_json(folder / config, lambda content: content.update(transformers_weights=named))
    found, decoyed = embedding(folder)
    np.testing.assert_array_equal(found, expected)
    assert decoyed["weights"] == details["weights"]
    assert not canary.exists()


def test_no_library_gets_the_path_of_a_models_folder(llava, tmp_path, monkeypatch):
    """What transformers opens by itself lies in a folder with copies of the side files alone."""
    seen = {}

    def spy(kind):
        original = kind.from_pretrained.__func__

        def from_pretrained(cls, path, *arguments, **options):
            if path is not None:
                seen.update({file.name: cls for file in Path(path).iterdir()})
                assert Path(path) not in (llava, clip)
            return original(cls, path, *arguments, **options)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(from_pretrained))

    clip = tiny_clip(tmp_path / "model")
    for name in ("AutoProcessor", "AutoTokenizer", "AutoImageProcessor", "PreTrainedModel"):
        spy(getattr(transformers, name))
    embedding(llava)
    models.load(str(clip), tower="text", untrained=0)
    assert seen.keys() >= {"processor_config.json", "tokenizer.json", "vocab.json"}
    assert not [name for name in seen if name.endswith((".safetensors", ".bin"))]


def touched(*names, **contents):
    """Return a function that makes empty files and JSON files in a folder."""

    def make(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        for name, content in contents.items():
            write_json(folder / f"{name}.json", **content)

    return make


LORA = {"base_model_name_or_path": "org/base", "task_type": "CAUSAL_LM"}
CLIP = {"model_type": "clip"}
QUANTIZED = {"quantization_config": {"quant_method": "awq", "bits": 4}}
FOLDERS = {  # what a folder holds -> what the error calls it, and the next step
    "lora": (touched(adapter_config=LORA), "an adapter (LoRA) of org/base", "merge_and_unload()"),
    "lora and a base": (touched(config=CLIP, adapter_config=LORA), "an adapter", "org/base"),
    "awq": (touched(config=CLIP | QUANTIZED), "quantised (awq)", "made from"),
    "mlx": (touched(config=CLIP | {"quantization": {"bits": 4}}), "quantised (MLX)", "made from"),
    "mlx, old": (touched("weights.npz"), "weights.npz, a model in the form of MLX", "safetensors"),
    "gguf": (touched("llava.gguf"), "llava.gguf, a model in the form of GGUF", "safetensors"),
    "onnx": (touched("onnx/model.onnx", config=CLIP), "onnx/model.onnx, a model", "safetensors"),
    "sentences": (touched("0_CLIPModel/config.json"), "sentence-transformers", "/0_CLIPModel"),
    "diffusers": (touched("image_encoder/config.json"), "of diffusers", "/image_encoder"),
    "no images": (touched("model_index.json"), "diffusers without", "give another model"),
    "runs": (touched("checkpoint-5/config.json"), "run of transformers", "/checkpoint-5"),
    "open_clip": (touched("checkpoints/epoch_1.pt"), "a training run of OpenCLIP", "epoch_1.pt"),
    "cache": (touched("models--a--b/snapshots/1/config.json"), "the Hub's cache", "model: a/b"),
    "pickle": (touched("pytorch_model.bin", config=CLIP), "a pickle", "weights_only=True"),
    "file": (touched("a.pt"), "expected a model's folder, got a file", "weights_only=True"),
    "weights": (touched("a.safetensors"), "expected a model's folder, got a file", "give the"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_another_form_is_named_with_the_next_step(name, tmp_path):
    make, got, step = FOLDERS[name]
    make(tmp_path)
    model = tmp_path / {"file": "a.pt", "weights": "a.safetensors"}.get(name, "")
    line = fails("embed", "shapes", "--model", model, "-o", tmp_path / "img.h5")
    message, hint = line.split("; hint: ")
    assert got in message
    assert step in hint


def test_the_lines_that_convert_a_pickle_are_those_of_the_page(tmp_path, monkeypatch):
    folder = tiny_clip(tmp_path / "model")
    expected, _ = embedding(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    lines = "\n".join(CONVERSION).replace("{file}", '"pytorch_model.bin"')
    lines = lines.replace("{target}", '"model.safetensors"')
    assert lines in PAGE.read_text()
    monkeypatch.chdir(folder)
    line = fails("embed", "shapes", "--model", folder, "-o", tmp_path / "img.h5")
    command = line.partition("convert it: ")[2]
    assert shell(command, folder).returncode == 0
    np.testing.assert_array_equal(embedding(folder)[0], expected)


def test_a_checkpoint_of_a_training_needs_the_processor_of_its_base(tmp_path):
    folder = tiny_clip(tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    line = fails("embed", "shapes", "--model", folder, "-o", tmp_path / "img.h5")
    assert "expected its image processor in preprocessor_config.json, got none" in line
    assert 'AutoProcessor.from_pretrained("BASE").save_pretrained' in line


def overflow(tensors):
    for number in (1, 2):
        tensors[f"multi_modal_projector.linear_{number}.weight"] *= 1e25


@pytest.mark.parametrize("more", [(), ("--layer", 1)])
def test_a_generative_model_that_gives_nan_is_refused_in_one_line(more, copied, tmp_path):
    edit_tensors(copied, overflow)
    line = fails(*RUN, *more, "-m", copied, "-o", tmp_path / "img.h5", "--precision", "fp32")
    assert " of a first image, got NaN or Inf; hint: check the numbers" in line


def mix_rows(self, **inputs):
    """Embed images as a model does that lets each see the whole batch."""
    pixels = inputs["pixel_values"].flatten(1)[:, : self.width]
    return pixels + pixels.sum(dim=0)


def join_rows(self, **inputs):
    """Embed all images of a batch as one, as a model of image tokens in one sequence does."""
    return inputs["pixel_values"].flatten(1)[:, : self.width].sum(dim=0, keepdim=True)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (mix_rows, "got one that differs by"),
        (join_rows, "got an array of the shape (1, 16) in a batch of 2"),
    ],
)
def test_a_model_whose_rows_depend_on_the_batch_is_used_one_by_one(
    forward, message, tmp_path, monkeypatch
):
    folder = tiny_clip(tmp_path / "model")
    monkeypatch.setattr(Tower, "width", 16, raising=False)
    monkeypatch.setattr(Tower, "__call__", forward)
    run = ("embed", "shapes", "--limit", 20, "-m", folder, "-o", tmp_path / "img.h5")
    line = fails(*run)
    assert f"expected one embedding of the same image in every batch, {message}" in line
    assert line.endswith("; hint: encode images one by one: -b 1\n")
    ok(*run, "-b", 1)


def test_texts_that_depend_on_the_batch_are_refused(tmp_path, monkeypatch):
    def padded(self, input_ids, **inputs):
        return input_ids[:, :1].float().expand(-1, 16) * input_ids.shape[0]

    monkeypatch.setattr(Tower, "__call__", padded)
    folder = tiny_clip(tmp_path / "model")
    line = fails("textembed", "generic32", "-m", folder, "-o", tmp_path / "txt.h5")
    assert "expected one embedding of the same prompt in every batch, got one that" in line


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {  # what takes memory without end
    "a long text": "{{ 'a' * 5000000000 }}",
    "many texts": ENDLESS.replace("range(99999) %}{% endfor", "range(99999) %}a{% endfor"),
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_takes_memory_without_end_is_one_line(
    name, copied, tmp_path, monkeypatch
):
    monkeypatch.setattr("clipkit.models.questions.MAX_TEMPLATE_BYTES", 2**27)
    (copied / "chat_template.jinja").write_text(TEMPLATES[name])
    line = fails(*RUN, "-m", copied, "-o", tmp_path / "img.h5")
    assert "cannot load the chat template of " in line
    assert "copy: expected a step of at most 128 MiB, got one that takes more" in line


# clipkit, which gets SIGINT while it renders a chat template
INTERRUPTED = """
import os, subprocess
from clipkit.cli import main
from clipkit.models import questions

limit = questions.memory_limit

def limit_and_interrupt(*arguments):
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -INT {os.getpid()}"])
    return limit(*arguments)

questions.memory_limit = limit_and_interrupt
main()
"""


@pytest.mark.parametrize("template", [ENDLESS, "{{ 9 ** (9 ** 9) }}"])
def test_a_signal_ends_a_chat_template_without_end(template, copied, tmp_path):
    (copied / "chat_template.jinja").write_text(template)
    words = [*RUN, "-m", copied, "-o", tmp_path / "img.h5"]
    line = [sys.executable, "-c", INTERRUPTED, *map(str, words)]
    ended = subprocess.run(line, capture_output=True, text=True, env=environment())
    assert ended.returncode == 130
    assert ended.stderr == "clipkit embed: interrupted by SIGINT\n"


def test_a_prompt_is_bounded_as_other_prompts_are(copied, tmp_path):
    template = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").write_text(template + "{{ 'a' * 10000 }}")
    line = fails(*RUN, "-m", copied, "-o", tmp_path / "img.h5")
    assert "copy: its prompt: expected at most 10,000 characters, got 10," in line


SETTINGS = {
    "too many tokens": ({"num_additional_image_tokens": 2**18}, "expected at most 131,072 tokens"),
    "far too many": (
        {"num_additional_image_tokens": 10**18},
        "at most 2048 MiB, got one that takes more; hint: check",
    ),
    "huge pixels": ({"size": {"height": 10**5, "width": 10**5}}, "at most 2048 MiB, got one that"),
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
