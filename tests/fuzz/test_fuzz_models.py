"""Changed model folders give other embeddings of another digest, or one line."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
from factories.clips import SMALL_TOWER, noise_image, write_json, write_model
from fuzz import content
from fuzz.commands import Runner, cases
from fuzz.damage import damaged
from hypothesis import note, reject
from tokenizers.pre_tokenizers import ByteLevel

from clipkit.features import read
from clipkit.models.hub import BUNDLED

pytestmark = [pytest.mark.long, pytest.mark.exhaustive]

LETTERS = sorted(ByteLevel.alphabet())
TOKENS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
JSON_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json")
FILES = (*JSON_FILES, "merges.txt", "model.safetensors")
OTHERS = ("tokenizer.json", "added_tokens.json", "special_tokens_map.json", "spiece.model")
VALUES = [
    0, 1, 2, 16, -1, 10**6, 10**9, 0.5, 1e300, "x", "2", None, True, False, [], {}, [0.5], [0] * 3,
    [None] * 3, {"height": 16, "width": 32}, {"shortest_edge": 8}, "gelu", "relu", "siglip", "</s>",
]  # fmt: skip
NO_JSON = ["", "{", "[]", "null", "1", '"x"', "[" * 200_000, '{"a":' * 200_000, "\x00", "x y\nz"]
TYPES = ["F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "X", None]
LINES = {
    "images": "embed pictures -o out.h5 --precision fp32 -m",
    "texts": "textembed prompts.txt -o out.h5 -m",
    "untrained": "textembed prompts.txt -o out.h5 --untrained 1 -m",
}


@pytest.fixture(scope="module")
def runner(fork_server, tmp_path_factory):
    """A runner in a folder with a CLIP of two layers per tower and a vocabulary of letters."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("models")
    ids = {"bos_token_id": len(TOKENS) - 2, "eos_token_id": len(TOKENS) - 1}
    text = {**SMALL_TOWER, "hidden_size": 32, "vocab_size": len(TOKENS), **ids}
    text["pad_token_id"] = ids["eos_token_id"]
    vision = {**SMALL_TOWER, "hidden_size": 32, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    write_model(folder / "original", CLIPModel, config, seed=0)
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    write_json(folder / "original" / "vocab.json", **vocabulary)
    (folder / "original" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "pictures").mkdir()
    for number in range(3):
        noise_image(40, 30 + number, number).save(folder / "pictures" / f"{number}.png")
    (folder / "prompts.txt").write_text("a dot\na round thing\nsomething straight\n")
    return Runner(fork_server, folder)


def embedded(runner, kind, model):
    """Run a command, and return its file unless it was refused."""
    runner.clear()
    ended, problem = runner.judge(*LINES[kind].split(), model, fake=False)
    assert not problem
    return read(runner.folder / "out.h5") if ended.exit_code in (0, 3) else None


@pytest.fixture(scope="module")
def expected(runner):
    return {kind: embedded(runner, kind, "original") for kind in LINES}


def features(file):
    return file.features if file.kind == "texts" else file.splits["all"].features


@cases(10)
def test_other_embeddings_have_another_digest(rng, runner, expected):
    model = runner.folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(runner.folder / "original", model)
    try:
        for _ in range(rng.choice((1, 1, 2))):
            note(str(rng.choice(MUTATIONS)(model, rng)))
    except (ValueError, TypeError, LookupError, AttributeError, OSError, struct.error):
        reject()  # an earlier one left nothing to change
    kind = rng.choice(list(LINES))
    right, got = expected[kind], embedded(runner, kind, "model")
    if got is None:
        return
    old, new = features(right), features(got)
    if new.shape != old.shape or not np.allclose(new, old, rtol=1e-3, atol=1e-5):
        assert got.model()["digest"] != right.model()["digest"]


ASK = "What shape is in the image?"
SETTINGS = ("config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")
LOOP = "{% for a in range(99999) %}"
TEMPLATES = [
    *("", "{", "{{ x }}", f"{LOOP}{LOOP}{'{% endfor %}' * 2}", "{{ 'a' * 10**10 }}", "\x00"),
    *("{{ messages }}", "{% include 'x' %}", "{{ ().__class__.__mro__ }}", "<image>" * 99),
    *("<image>{{ messages[0]['content'][1]['text'] }}", "{{ raise_exception('\\n') }}"),
]
NUMBERS = [-1, 0, 2, 9, 1000, 10**6, 10**9, 10**18, 0.5, 1e300, None, "x", [], {}, True]


@pytest.fixture(scope="module")
def llava(runner):
    """The bundled generative model as a folder, and its embeddings."""
    folder = shutil.copytree(BUNDLED["tiny-llava"], runner.folder / "llava")
    return folder, asked(runner, folder.name)


def asked(runner, model):
    runner.clear()
    line = ("embed", "pictures", "-o", "out.h5", "--ask", ASK, "--precision", "fp32", "-m", model)
    ended, problem = runner.judge(*line, fake=False, memory=4 << 30)
    assert not problem
    return read(runner.folder / "out.h5") if ended.exit_code in (0, 3) else None


@cases(5)
def test_another_generative_model_has_another_digest_or_prompt(rng, runner, llava):
    original, right = llava
    model = runner.folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(original, model)
    if rng.random() < 0.3:
        template = rng.choice(TEMPLATES)
        (model / "chat_template.jinja").write_text(template)
        note(template)
    else:
        path = model / rng.choice([name for name in SETTINGS if (model / name).exists()])
        value = json.loads(path.read_text())
        owner, key = rng.choice(list(content.places(value)))
        owner[key] = rng.choice(NUMBERS)
        note(f"{path.name} {key} = {owner[key]}")
        path.write_text(json.dumps(value))
    got = asked(runner, "model")
    if got is None:
        return
    old, new = features(right), features(got)
    if new.shape != old.shape or not np.allclose(new, old, rtol=1e-3, atol=1e-5):
        names = ("digest", "prompt")
        assert [got.model()[name] for name in names] != [right.model()[name] for name in names]


# mutations; each returns what it did


def set_value(model, rng):
    """Set or drop a value somewhere in a JSON file."""
    file = model / rng.choice(JSON_FILES)
    value = json.loads(file.read_text())
    owner, key = rng.choice(list(content.places(value)))
    owner[key] = rng.choice(VALUES)
    done = f"{file.name} {key} = {owner[key]}"
    if rng.random() < 0.2:
        del owner[key]
    file.write_text(json.dumps(value))
    return done


def replace_file(model, rng):
    """Put something other than a regular file of a sensible size in a file's place, or add it."""
    path = model / rng.choice((*FILES, *OTHERS))
    path.unlink(missing_ok=True)
    kind = rng.choice(
        ("nothing", "a folder", "a FIFO", "/dev/zero", "/dev/null", path.name, "text")
    )
    if kind == "a folder":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "text":
        path.write_text(rng.choice(NO_JSON))
    elif kind != "nothing":
        path.symlink_to(kind)
    return f"{path.name} is {kind}"


def damage_file(model, rng):
    path = model / rng.choice(FILES)
    path.write_bytes(damaged(path.read_bytes(), rng))
    return f"{path.name} is damaged"


def change_weights(model, rng):
    """Change a tensor's values, or its type, shape, place or name."""
    path = model / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, data = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    start, end = entry["data_offsets"]
    number = np.float32(rng.choice(content.NUMBERS[:8])).tobytes()
    data[start:end] = rng.choice((number * ((end - start) // 4), bytes(data[start:end])))
    changes = {
        "dtype": TYPES,
        "shape": [[], [0], [10**18], [-1], entry["shape"][::-1], [*entry["shape"], 1]],
        "data_offsets": [[0, 0], [0, 2**63], [8, 4], [0], None, [0, len(data)]],
    }
    key = rng.choice(("values", *changes))
    if key in changes:
        entry[key] = rng.choice(changes[key])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return f"{key} of {name}: {entry}"


MUTATIONS = [set_value, set_value, set_value, replace_file, damage_file, change_weights]
