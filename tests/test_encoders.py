"""One's own encoder: each recipe of docs/encoders.md runs, and all of clipkit's runs take it."""

from __future__ import annotations

import http.server
import importlib.util
import json
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import clips, messages, vlm_zoo
from factories.ray_fakes import FakeRay
from factories.runs import stop_at
from PIL import Image
from shell import clipkit, fails, ok

import clipkit as library
from clipkit import features, models
from clipkit.base.errors import ClipkitError
from clipkit.embedding import checkpoint, ray_cluster
from clipkit.models.own_encoder import Own, OwnTower

PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"
BLOCKS = re.findall(r"^```py\n# (\w+\.py)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
RECIPES = dict(BLOCKS)
COMMANDS = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
RUN = ("embed", "digits", "--split", "test", "--limit", 20, "-b", 4)
OWN = "python:toy.py:make"
HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder that holds the toy, and forget its modules afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    write("toy.py")
    yield tmp_path
    sys.modules.pop("toy", None)


def write(name, text=None):
    Path(name).write_text(text or RECIPES[name])


def rows(path, split="test"):
    return np.asarray(features.read(str(path)).splits[split].features)


def encode(name, tower="image", **options):
    """Encode two images or texts by a recipe."""
    write(name)
    encoder = models.load(named(name), tower=tower, **options)
    if tower == "text":
        return encoder.encode_texts(["a heart", "two stars"])
    return encoder.encode_images(pair())


def named(name):
    """Return how a recipe is named: by its file and its only class."""
    (kind,) = re.findall(r"class (\w+)", RECIPES[name])
    return f"python:{name}:{kind}"


def pair():
    return [clips.noise_image(40, 30), clips.noise_image(30, 50, seed=1)]


def need(package):
    return pytest.importorskip(package, reason=f"{package} is not installed: docs/encoders.md")


# ---- The toy -------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_commands_of_the_page_run_and_name_the_encoder():
    for line in COMMANDS[0].splitlines():
        ok(*line.replace("'", "").split()[1:])
    details = features.read("img.h5").history.model
    assert (details["name"], details["python"]) == ("toy.py:make", OWN)
    assert features.read("control.h5").history.model["untrained"] == 7
    assert rows("img.l2.h5").shape == (300, 32)


def test_rows_and_layers_are_what_the_code_computes():
    import toy

    encoder = models.load(OWN, tower="image", layers="all")
    own = toy.make()
    pixels = torch.stack([torch.from_numpy(own.transform(image)) for image in pair()])
    first = own.layers[0](pixels)
    second = own.layers[1](first.relu())
    states = [pixels, first, second]
    expected = np.concatenate([s.mean(dim=(2, 3)).detach().numpy() for s in states], axis=1)
    np.testing.assert_allclose(encoder.encode_images(pair()), expected, rtol=1e-5)
    embedded = models.load(OWN, tower="image").encode_images(pair())
    np.testing.assert_allclose(embedded, own.image(pixels).detach().numpy(), rtol=1e-5)
    texts = ["a", "a longer one"]
    expected = own.text(texts).detach().numpy()
    found = models.load(OWN, tower="text").encode_texts(texts)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_untrained_control_is_make_of_the_seed():
    trained, control = (models.load(OWN, tower="image", untrained=seed) for seed in (None, 7))
    import toy

    same = models.load(toy.make(7), tower="image")
    np.testing.assert_array_equal(control.encode_images(pair()), same.encode_images(pair()))
    assert control.details["weights"] == same.details["weights"] != trained.details["weights"]
    write("fixed.py", "from toy import Toy\ndef make():\n    return Toy(0).eval()\n")
    line = fails(*RUN, "-m", "python:fixed.py:make", "--untrained", 7, "-o", "x.h5", exit_code=2)
    assert "fixed.py:make: cannot call make(seed): too many" in line
    assert "hint: write: def make(seed=None)" in line


@pytest.mark.long
def test_the_library_takes_the_function_the_class_and_the_object():
    exec(compile(RECIPES["library.py"].replace("=100", "=20"), "library.py", "exec"), {})
    import toy

    assert rows("own.h5").shape == (20, 32)
    assert features.read("own.control.h5").history.model["untrained"] == 7
    by_file = models.load(OWN, tower="image")
    for source in (toy.make, toy.make()):
        encoder = library.load_model(source, tower="image")
        np.testing.assert_array_equal(encoder.encode_images(pair()), by_file.encode_images(pair()))
        assert encoder.details["digest"] == by_file.details["digest"]

    class Local:
        def image(self, images):
            return [image.size for image in images]

    assert models.load(Local, tower="image").encode_images(pair()).tolist() == [[40, 30], [30, 50]]
    with pytest.raises(ClipkitError, match="expected an object with image"):
        models.load(3, tower="image")


# ---- Runs ----------------------------------------------------------------------------------------


@pytest.fixture
def whole(folder, monkeypatch):
    """The bytes of one process, in shards of four."""
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 4)
    ok(*RUN, "-m", OWN, "-o", "whole.h5")
    return Path("whole.h5").read_bytes()


@pytest.mark.long
def test_parts_of_which_one_is_killed_give_the_bytes_of_one_process(whole, monkeypatch):
    run = (*RUN, "-m", OWN, "-o", "out.h5", "--part")
    ok(*run, "1/3")
    stop_at(4, monkeypatch, *run, "2/3")
    ok(*run, "3/3")
    assert not Path("out.h5").exists()
    assert "resuming at 4 of 8" in ok(*run, "2/3").stderr
    assert Path("out.h5").read_bytes() == whole


def test_ray_gives_the_bytes_of_one_process(whole, monkeypatch):
    monkeypatch.setattr(ray_cluster, "import_ray", FakeRay)
    ok(*RUN, "-m", OWN, "-o", "out.h5", "--engine", "ray", "--replicas", 2)
    assert Path("out.h5").read_bytes() == whole


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.cluster
@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: clipkit-vl[ray]")
def test_processes_of_ray_give_the_bytes_of_one_process(whole):
    ok(*RUN, "-m", OWN, "-o", "out.h5", "--engine", "ray", "--replicas", 1)
    assert Path("out.h5").read_bytes() == whole


@pytest.mark.long
def test_a_run_does_not_continue_with_other_code_files_or_weights(whole, monkeypatch):
    write("own.py", RECIPES["toy.py"].replace("def trans", "files = ['more']\n\n    def trans"))
    Path("more").mkdir()
    Path("more/scale.txt").write_text("1")
    run = (*RUN, "-m", "python:own.py:make", "-o", "out.h5")
    stop_at(2, monkeypatch, *run)
    Path("more/scale.txt").write_text("2")
    assert "model files.more/scale.txt was " in fails(*run, exit_code=2)
    Path("more/scale.txt").write_text("1")
    code = Path("own.py").read_text()
    write("own.py", code + "\n")
    assert "model files.own.py was " in fails(*run, exit_code=2)
    write("own.py", code)
    ok(*run)
    Path("more/scale.txt").unlink()
    Path("more").rmdir()
    assert "files: cannot read " in fails(*run, "--force")


@pytest.mark.long
def test_logits_refuse_texts_of_other_weights():
    ok(*RUN, "-m", OWN, "-o", "img.h5")
    ok("textembed", "generic32", "-m", OWN, "-o", "txt.h5")
    ok("textembed", "generic32", "-m", OWN, "--untrained", 7, "-o", "other.h5")
    ok("logits", "img.h5", "txt.h5", "-o", "logits.h5")
    assert "come from different models (toy.py:make" in fails("logits", "img.h5", "other.h5")


def test_a_feature_file_names_no_code_to_run():
    ok(*RUN, "-m", OWN, "-o", "img.h5")
    write("toy.py", "raise SystemExit('it ran')")
    line = fails("textembed", "--classes", "img.h5", "-o", "txt.h5", exit_code=2)
    assert "img.h5 comes from one's own encoder, toy.py:make, which only you can name" in line
    file = features.read("img.h5")
    file.history[0]["model"] = {"name": OWN}
    features.write("crafted.h5", file)
    assert "which only you" in fails(
        "textembed", "--classes", "crafted.h5", "-o", "t.h5", exit_code=2
    )


# ---- Refusals ------------------------------------------------------------------------------------

CLASS = "class E:\n    def image(self, images):\n        {}\nmake = E\n"
NOISE = "import numpy as np\n" + CLASS.format("return np.random.rand(len(images), 3)")
ROWS = "[image.width * torch.ones(2 + row) for row, image in enumerate(images)]"
NESTED = f"return torch.nested.nested_tensor({ROWS})"
CODE = [
    ("make = 3", "unknown function of own.py 'make'"),
    ("def mak(): pass", "did you mean mak?"),
    (
        "1 / 0",
        "cannot run own.py (line 1): ZeroDivisionError: division by zero; "
        "hint: clipkit --debug shows where",
    ),
    ("import sys\nsys.exit(3)", "cannot run own.py (line 2): it called sys.exit(3)"),
    ("def make(): raise KeyError('w')", "own.py:make: cannot call make() (line 1): KeyError: 'w'"),
    (
        "def make(): return 3",
        "make(): expected an object with image(pixels) or text(texts), got int",
    ),
    (CLASS.format("return [1, 2]"), "expected numbers (1, D) for 1 image, got the shape (2,)"),
    (CLASS.format("return ['a']"), "expected numbers (1, D) for 1 image, got list"),
    (CLASS.format("return images[0].size"), "expected numbers (1, D) for 1 image, got the shape"),
    (CLASS.format("raise OSError('no service')"), "own.py:make (line 3): OSError: no service"),
    (
        CLASS.format("return [[float('nan')]] * len(images)"),
        "expected a finite embedding of a first image, got NaN or Inf\n",
    ),
    pytest.param(
        f"import torch\n{CLASS.format(NESTED)}",
        "expected numbers (2, D) for 2 images, got tensors of several shapes",
        marks=pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    ),
    (CLASS.format("return images").replace("def", "device = 'cuda'\n    def"), "use its device"),
    (
        CLASS.format("return [[i.size[0], 100 * n] for n, i in enumerate(images)]"),
        "expected one embedding of the same image in every batch, got one that differs by",
    ),
    (NOISE, "call eval() on the model"),
    (
        CLASS.format("return [[1.0]] * len(images)").replace(
            "make", "E.transform = lambda self, i: __import__('numpy').array(i)\nmake"
        ),
        "expected a transform that gives all images one shape, got (150, 200, 3) and (224, 160, 3)",
    ),
]


@pytest.mark.parametrize(("code", "message"), CODE)
def test_code_that_is_no_encoder_is_refused_in_one_line(code, message):
    write("own.py", code)
    result = clipkit(*RUN, "-m", "python:own.py:make", "-o", "out.h5")
    assert result.exit_code in (1, 2)
    (line,) = messages(result.stderr).splitlines(keepends=True)
    assert message in line
    assert not Path("out.h5").exists()


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("-m", "python:toy.py"), "name both: --model python:FILE.py:make", 2),
        (("-m", "python:none.py:make"), "cannot read none.py: there is no such file", 1),
        (("-m", OWN, "--device", "cpu"), "expected no --device with images of one's own", 2),
        (("-m", OWN, "--precision", "bf16"), "expected no --precision with images", 2),
        (("-m", OWN, "--no-projection"), "expected no --no-projection with images", 2),
        (("-m", OWN, "--image-size", 32), "expected no --image-size with images", 2),
        (("-m", OWN, "--ask", "What?"), "expected no --ask with images of one's own", 2),
        (("-m", OWN, "--layer", 3), "layer: expected 0 to 2", 2),
        (("-m", OWN, "--layer", 1, "--pool", "cls"), "expected a model with a CLS token", 2),
    ],
)
def test_options_that_the_code_decides_are_refused(words, message, code):
    assert message in fails(*RUN, *words, "-o", "out.h5", exit_code=code)


def test_what_an_encoder_lacks_is_refused():
    write("own.py", CLASS.format("return [image.size for image in images]"))
    own = ("-m", "python:own.py:make", "-o", "out.h5")
    assert "expected an encoder with text(texts)" in fails(
        "textembed", "generic32", *own, exit_code=2
    )
    assert "expected an encoder with layers, a list" in fails(*RUN, *own, "--layer", 0, exit_code=2)
    line = fails("textembed", "generic32", "-m", OWN, "--layer", 0, "-o", "out.h5", exit_code=2)
    assert "expected no --layers with texts" in line
    assert "expected a model that clipkit reads" in fails("info", OWN, exit_code=2)


def test_what_the_code_prints_stays_out_of_a_file_on_standard_output():
    body = "print('image'); return [image.size for image in images]"
    write("own.py", "print('import')\n" + CLASS.format(body))
    own = ("-m", "python:own.py:make", "-o")
    result = ok(*RUN, *own, "-")
    ok(*RUN, *own, "out.h5")
    assert result.stdout_bytes == Path("out.h5").read_bytes()
    assert {"import", "image"} <= set(result.stderr.split())


def test_an_interrupt_that_code_raises_is_its_error_and_no_signal(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)  # commands have their own
    write("own.py", CLASS.format("raise KeyboardInterrupt"))
    line = fails(*RUN, "-m", "python:own.py:make", "-o", "out.h5")
    assert "own.py:make (line 3): KeyboardInterrupt" in line


def test_embeddings_of_zeros_are_named():
    code = "return [i.resize((1, 1)).getpixel((0, 0)) if i.width < 160 else (1, 2, i.width)"
    write("own.py", CLASS.format(f"{code} for i in images]"))
    for name, colour in (("black", 0), ("grey", 128)):
        Image.new("RGB", (40, 40), (colour, colour, colour)).save(f"{name}.png")
    result = clipkit("embed", "black.png", "grey.png", "-m", "python:own.py:make", "-o", "out.h5")
    assert result.exit_code == 0
    assert "out.h5: the embeddings of 1 image are zeros, first black.png" in result.stderr


def test_rows_that_depend_a_little_on_their_batch_are_noted():
    write("own.py", CLASS.format("return [[image.size[0] + len(images)] for image in images]"))
    result = ok(*RUN, "-m", "python:own.py:make", "-o", "out.h5")
    assert "own.py:make: another image of a batch changes an embedding by 0.6%" in result.stderr


def test_a_tower_takes_tensors_arrays_and_lists():
    expected = [[1.0, 2.0], [3.0, 4.0]]
    for rows_of in (torch.tensor(expected), np.array(expected), expected):
        own = Own(None, "own", None)
        found = OwnTower(own, lambda _, answer=rows_of: answer, "images")(images=[0, 1])
        assert found.tolist() == expected


# ---- Recipes -------------------------------------------------------------------------------------


def clip(name="clip"):
    """Save a small CLIP, and return its model."""
    from transformers import CLIPModel

    clips.tiny_clip(Path(name))
    return CLIPModel.from_pretrained(name).eval()


def library_rows(model, images=None):
    """Return the image embeddings of a CLIP by its own library."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained("clip")
    pixels = [
        processor(images=image, return_tensors="pt")["pixel_values"] for image in images or pair()
    ]
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=torch.cat(pixels)).pooler_output
        return model.visual_projection(pooled).numpy()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of transformers
def test_a_lora_adapter_is_merged():
    peft = need("peft")
    base = clip()
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(base, config)
    adapted.save_pretrained("adapter")
    merged = adapted.merge_and_unload().eval()
    found = encode("lora.py")
    np.testing.assert_allclose(found, library_rows(merged), rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, models.load("clip", tower="image").encode_images(pair()))


REMOTE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class RemoteConfig(PretrainedConfig):
    model_type = "remote"

class RemoteModel(PreTrainedModel):
    config_class = RemoteConfig
    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(2, 3)
        self.post_init()
    def encode_image(self, images):
        return self.linear(torch.tensor([image.size for image in images], dtype=torch.float32))
    def encode_text(self, texts):
        return self.linear(torch.tensor([[len(text), 1.0] for text in texts]))
"""


def test_the_code_of_a_repository_runs_since_the_users_file_loads_it(monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(Path("cache")))
    Path("remote").mkdir()
    classes = {"AutoConfig": "code.RemoteConfig", "AutoModel": "code.RemoteModel"}
    clips.write_json(Path("remote/config.json"), model_type="remote", auto_map=classes)
    write("remote/code.py", REMOTE)
    weight, bias = torch.arange(6.0).reshape(3, 2), torch.ones(3)
    tensors = {"linear.weight": weight, "linear.bias": bias}
    save_file(tensors, "remote/model.safetensors", metadata={"format": "pt"})
    sizes = torch.tensor([[40.0, 30.0], [30.0, 50.0]])
    np.testing.assert_allclose(encode("remote.py"), sizes @ weight.T + bias)
    lengths = torch.tensor([[7.0, 1.0], [9.0, 1.0]])
    np.testing.assert_allclose(encode("remote.py", "text"), lengths @ weight.T + bias)
    assert "model_type 'remote'" in fails(*RUN, "-m", "remote", "-o", "out.h5")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_quantised_model_is_close_to_its_original():
    need("torchao")
    expected = library_rows(clip())
    found = encode("quantised.py")
    assert clips.cosines(found, expected).min() > 0.99
    assert not np.array_equal(found, expected)


def test_onnx_runtime_gives_the_product_of_its_graph():
    need("onnxruntime")
    onnx = need("onnx")
    shapes = {"pixels": ["N", 3, 32, 32], "rows": ["N", 3]}
    values = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    node = onnx.helper.make_node("ReduceMean", ["pixels"], ["rows"], axes=[2, 3], keepdims=0)
    graph = onnx.helper.make_graph([node], "mean", [values["pixels"]], [values["rows"]])
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), "model.onnx")
    expected = [np.array(image.resize((32, 32))).mean(axis=(0, 1)) / 255 for image in pair()]
    np.testing.assert_allclose(encode("onnx_model.py"), expected, rtol=1e-5)


@pytest.mark.long
def test_a_checkpoint_of_ones_own_open_clip_training_gives_what_open_clip_gives():
    open_clip = need("open_clip")
    small = {"layers": 2, "width": 64}
    vision = {**small, "image_size": 32, "patch_size": 8}
    words = {**small, "context_length": 77, "vocab_size": 49408, "heads": 2}
    Path("configs").mkdir()
    content = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": words}
    clips.write_json(Path("configs/small-own.json"), **content)
    open_clip.add_model_config("configs")
    torch.manual_seed(1)
    model, _, transform = open_clip.create_model_and_transforms("small-own")
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 5, "name": "run", "state_dict": state}, "epoch_5.pt")
    write("trained.py", RECIPES["trained.py"].replace("ViT-B-32", "small-own"))
    encoder = models.load(named("trained.py"), tower="image")
    with torch.no_grad():
        pixels = torch.stack([transform(image) for image in pair()])
        images = model.eval().encode_image(pixels).numpy()
        texts = model.encode_text(open_clip.get_tokenizer("small-own")(["a heart"])).numpy()
    np.testing.assert_allclose(encoder.encode_images(pair()), images, rtol=1e-4, atol=1e-6)
    assert encoder.details["logit_scale"] == pytest.approx(1 / 0.07)
    of_texts = models.load(named("trained.py"), tower="text")
    np.testing.assert_allclose(of_texts.encode_texts("a heart"), texts, rtol=1e-4, atol=1e-6)
    assert of_texts.details["digest"] == encoder.details["digest"]
    last = models.load(named("trained.py"), tower="image", layers=[0, 2])
    assert last.encode_images(pair()).shape == (2, 128)
    control = models.load(named("trained.py"), tower="image", untrained=3)
    assert control.details["digest"] != encoder.details["digest"]


@pytest.mark.long
def test_the_vision_tower_of_a_generative_model_gives_its_library_s_rows():
    from transformers import AutoImageProcessor

    whole = vlm_zoo.llava(Path("llava"))
    found = encode("vision_tower.py")
    processor = AutoImageProcessor.from_pretrained("llava")
    pixels = [processor(images=i, return_tensors="pt")["pixel_values"] for i in pair()]
    with torch.no_grad():
        outputs = whole.model.vision_tower(torch.cat(pixels), output_hidden_states=True)
    np.testing.assert_allclose(found, outputs.pooler_output, rtol=1e-4, atol=1e-6)
    states = encode("vision_tower.py", layers=[1], pool="cls")
    np.testing.assert_allclose(states, outputs.hidden_states[1][:, 0], rtol=1e-4, atol=1e-6)


def test_a_clip_of_sentence_transformers_embeds_images_and_texts():
    sentence_transformers = need("sentence_transformers")
    model = clip()
    sentence_transformers.SentenceTransformer("clip", device="cpu").save("sentence-clip")
    expected = library_rows(model)
    np.testing.assert_allclose(encode("sentences.py"), expected, rtol=1e-4, atol=1e-6)
    assert encode("sentences.py", "text").shape == expected.shape


class Answering(http.server.BaseHTTPRequestHandler):
    """An embedding service that fails at first, and then answers by the size of what it gets."""

    failures = 0
    asked = 0
    retry_after = ""

    def do_POST(self):
        kind = type(self)
        kind.asked += 1
        if kind.failures:
            kind.failures -= 1
            self.send_response(503)
            if kind.retry_after:
                self.send_header("Retry-After", kind.retry_after)
            self.end_headers()
            return
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ((name, value),) = content.items()
        body = json.dumps({"embedding": [float(len(name)), float(len(value))]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def service(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("EMBEDDING_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(Answering, "asked", 0)
    fast = RECIPES["service.py"].replace("= 0.2, 1.0, 5", "= 0.0, 0.001, 5")
    write("service.py", fast)
    yield Answering
    server.shutdown()
    server.server_close()


@pytest.mark.long
def test_an_embedding_service_is_asked_again_if_it_fails(service, monkeypatch):
    monkeypatch.setattr(service, "failures", 5)
    ok(*RUN, "-m", named("service.py"), "-o", "img.h5")
    assert service.asked == 5 + 4 + 20  # two images together and apart
    assert rows("img.h5")[0, 0] == len("image")
    encoder = models.load(named("service.py"), tower="text")
    assert encoder.encode_texts(["a heart"]).tolist() == [[4.0, 7.0]]
    monkeypatch.setattr(service, "failures", 6)
    line = fails(*RUN, "-m", named("service.py"), "-o", "x.h5")
    assert "service, model of 2026-05: cannot encode with service.py:Service" in line
    assert "HTTP Error 503" in line


@pytest.mark.long
def test_a_service_is_asked_again_when_it_says(service, monkeypatch):
    monkeypatch.setattr(service, "failures", 1)
    monkeypatch.setattr(service, "retry_after", "2")
    began = time.monotonic()
    models.load(named("service.py"), tower="text")
    assert time.monotonic() - began >= 2


def test_every_recipe_of_the_page_has_a_test():
    text = Path(__file__).read_text()
    assert [name for name in RECIPES if f'"{name}"' not in text] == []
    assert len(RECIPES) == 10
