"""Generative models: what they hold and what they would say is what transformers' own code has."""

from __future__ import annotations

import functools
import html
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
import versions
from factories.clips import edit_json, edit_tensors
from factories.runs import stop_at
from factories.vlm_zoo import FAMILIES, QUESTION, TEXT, VISION, image_size, llava, save, tokenizer
from PIL import Image
from shell import fails, ok

from clipkit import features, models
from clipkit.base.errors import ClipkitError
from clipkit.embedding import checkpoint
from clipkit.features.provenance import provenance
from clipkit.models.generative import AskedModel
from clipkit.models.libraries import newer_transformers
from clipkit.models.towers import Stack

# transformers' own code for PaliGemma
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ANSWERS = ["heart", "star", "moon"]
FAST = "llava"
EVERY = [
    pytest.param(name, marks=[] if name == FAST else pytest.mark.exhaustive) for name in FAMILIES
]
WITHOUT_DECODER = [mark for mark in EVERY if mark.values != ("florence2",)]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """Return a function from the name of a family to its folder and the model of transformers."""
    root = tmp_path_factory.mktemp("vlm")
    return functools.cache(lambda name: (root / name, FAMILIES[name](root / name)))


@pytest.fixture
def copied(vlm, tmp_path):
    """Return a copy of the small LLaVA."""
    return shutil.copytree(vlm(FAST)[0], tmp_path / "copy")


def load(folder, tower="image", ask=QUESTION, **options):
    return models.load(str(folder), tower=tower, ask=ask, device="cpu", precision="fp32", **options)


def images():
    """Return images of different sizes, which some processors turn into different numbers."""
    generator = np.random.default_rng(0)
    sizes = [(30, 60), (70, 33), (20, 20)]
    noise = [generator.integers(0, 255, (*size, 3), np.uint8) for size in sizes]
    return [Image.fromarray(pixels) for pixels in noise]


def library_inputs(folder, image):
    """Return the inputs of one image by the library's own processor."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    if not processor.chat_template:
        mark = "" if folder.name in ("blip2", "florence2") else "<image>"
        inputs = processor(images=image, text=f"{mark}{QUESTION}", return_tensors="pt")
        inputs.pop("labels", None)
        if folder.name == "florence2":  # </s> begins, and <s> is forced upon each answer
            inputs["decoder_input_ids"] = torch.tensor([[2, 1]])
        return inputs
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def logits_of(encoder, states, words):
    """Return next-token logits (N, K) of hidden states (N, D) and rows (K, D), by a file's rule."""
    logits = states @ words.T * encoder.details.get("logit_scale", 1)
    cap = encoder.details.get("logit_softcap")
    return logits if cap is None else np.tanh(logits / cap) * cap


@pytest.mark.parametrize("family", EVERY)
@torch.no_grad()
@versions.TOKEN_TYPES
def test_logits_are_the_librarys_own_for_one_image_and_in_a_padded_batch(vlm, family):
    folder, model = vlm(family)
    encoder, words = load(folder), load(folder, "text")
    rows = words.encode_texts(ANSWERS)
    tokens = [words._tokenizer.question.answer_tokens(word)[0] for word in ANSWERS]
    batch = logits_of(encoder, encoder.encode_images(images()), rows)
    for image, of_batch in zip(images(), batch, strict=True):
        inputs = library_inputs(folder, image)
        expected = model(**inputs).logits[0, -1, tokens].numpy()
        single = logits_of(encoder, encoder.encode_images(image), rows)[0]
        np.testing.assert_allclose(single, expected, atol=1e-5)
        np.testing.assert_allclose(of_batch, expected, atol=1e-5)
        said = model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda *_: tokens,
        )
        assert tokens[of_batch.argmax()] == said[0, -1]


@pytest.mark.parametrize("family", WITHOUT_DECODER)
@torch.no_grad()
def test_hidden_states_are_the_librarys_own_at_the_last_position_and_over_the_image(vlm, family):
    folder, model = vlm(family)
    last = load(folder, layers="all").encode_images(images())
    over_image = load(folder, layers="all", at="image").encode_images(images())
    for row, image in enumerate(images()):
        inputs = library_inputs(folder, image)
        outputs = model(**inputs, output_hidden_states=True)
        outputs = outputs.get("language_model_outputs", outputs)  # of BLIP-2
        states = torch.stack(outputs.hidden_states)[:, 0]
        is_image = inputs["input_ids"][0] == model.config.image_token_id
        mean = states[:, is_image].mean(dim=1)
        np.testing.assert_allclose(last[row], states[:, -1].flatten(), atol=1e-5)
        np.testing.assert_allclose(over_image[row], mean.flatten(), atol=1e-5)


@pytest.mark.exhaustive
@torch.no_grad()
def test_hidden_states_of_a_decoder_are_those_behind_its_first_tokens(vlm):
    folder, model = vlm("florence2")
    encoder = load(folder, layers="all")
    assert encoder.details["decoder_start"] == [2, 1]
    for image, row in zip(images(), encoder.encode_images(images()), strict=True):
        outputs = model(**library_inputs(folder, image), output_hidden_states=True)
        expected = torch.cat([state[0, -1] for state in outputs.decoder_hidden_states])
        np.testing.assert_allclose(row, expected, atol=1e-5)
    with pytest.raises(ClipkitError, match="expected a hidden state for each of"):
        load(folder, at="image")
    with pytest.raises(ClipkitError, match="expected a vision tower with layers that return"):
        load(folder, vision_tower=True, ask=None)


@pytest.mark.parametrize("family", WITHOUT_DECODER)
@torch.no_grad()
@versions.TOKEN_TYPES
def test_a_vision_tower_gives_what_its_layers_return_while_the_library_reads_an_image(vlm, family):
    folder, model = vlm(family)
    options = {"vision_tower": True, "pool": "mean", "ask": None}
    encoder = load(folder, layers="all", **options)
    inner = getattr(model, "model", model)
    tower = next(value for name, value in inner.named_children() if "vis" in name)
    layers = next(part for part in tower.modules() if isinstance(part, torch.nn.ModuleList))
    prefix = int(family in ("llava", "internvl", "blip2"))  # the CLS token
    for image, row in zip(images(), encoder.encode_images(images()), strict=True):
        states = []

        def keep(_layer, _inputs, output, states=states):
            states.append(output if isinstance(output, torch.Tensor) else output[0])

        hooks = [layer.register_forward_hook(keep) for layer in layers]
        model(**library_inputs(folder, image))
        for hook in hooks:
            hook.remove()
        means = []
        for state in states:
            tokens = state if state.ndim == 3 else state[None]
            means.append(tokens[:, prefix:].reshape(-1, tokens.shape[-1]).mean(dim=0))
        np.testing.assert_allclose(row[-sum(map(len, means)) :], torch.cat(means), atol=1e-5)
        assert len(means) == encoder.details["layers"]
    last = load(folder, **options)
    assert last.details["layer"] == encoder.details["layers"]
    np.testing.assert_array_equal(last.encode_images(images())[:, 0], rows_of_last(encoder))


def rows_of_last(encoder):
    """Return the first number of the last layer of each image."""
    return encoder.encode_images(images())[:, encoder.columns[encoder.details["layers"]].start]


def test_a_vision_tower_is_a_step_of_the_command_line(vlm, tmp_path):
    run = ("embed", *RUN[1:-2], "-m", vlm(FAST)[0])
    layers = tmp_path / "img.l{layer}.h5"
    ok(*run, "--vision-tower", "--layers", "0,3", "--pool", "cls", "-o", layers)
    details = features.read(str(tmp_path / "img.l3.h5")).history.model
    assert (details["layer"], details["layers"], details["pool"]) == (3, 3, "cls")
    assert provenance(features.read(str(tmp_path / "img.l3.h5"))).model.endswith(
        " vision tower layer 3 cls"
    )
    line = fails(*run, "-o", tmp_path / "none.h5", exit_code=2)
    assert "or embed by --vision-tower alone" in line
    asked = (*run, "--vision-tower", "--ask", QUESTION, "-o", tmp_path / "none.h5")
    assert "expected no --ask with --vision-tower" in fails(*asked, exit_code=2)
    tiny = ("embed", *RUN[1:-2], "-m", "tiny", "--vision-tower", "-o", tmp_path / "none.h5")
    assert "--vision-tower is for generative models" in fails(*tiny, exit_code=2)


ABOUT = "Represent this caption: {}"
CAPTIONS = ["a red heart", "one large moon and a blue star", "star"]
# PaliGemma's processor takes no text without an image, and the others have no chat template
WITHOUT_TEXTS = ("paligemma", "blip2", "florence2")
EMBEDDING = [mark for mark in EVERY if mark.values[0] not in WITHOUT_TEXTS]


@pytest.mark.parametrize("family", EMBEDDING)
@torch.no_grad()
def test_texts_as_embeddings_are_the_librarys_hidden_states_alone_and_in_a_batch(vlm, family):
    folder, model = vlm(family)
    encoder = load(folder, "text", ask=ABOUT, as_embedding=True)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"  # as the library generates
    conversations = []
    for caption in CAPTIONS:
        content = [{"type": "text", "text": ABOUT.replace("{}", caption)}]
        conversations.append([{"role": "user", "content": content}])
    settings = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    settings |= {"return_tensors": "pt"}
    rows = []
    for conversation in conversations:
        inputs = processor.apply_chat_template([conversation], **settings)
        rows.append(model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1].numpy())
    padded = processor.apply_chat_template(conversations, padding=True, **settings)
    assert not padded["attention_mask"].all()
    batch = model(**padded, output_hidden_states=True).hidden_states[-1][:, -1].numpy()
    np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), rows, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), batch, atol=1e-5)
    for caption, row in zip(CAPTIONS, rows, strict=True):
        np.testing.assert_allclose(encoder.encode_texts(caption)[0], row, atol=1e-5)


@pytest.mark.long
def test_images_and_texts_as_embeddings_are_compared_by_cosine(vlm, tmp_path):
    folder = vlm(FAST)[0]
    images, texts, logits = (tmp_path / f"{name}.h5" for name in ("images", "texts", "logits"))
    captions = tmp_path / "captions.txt"
    captions.write_text("\n".join(CAPTIONS))
    embedding = ("-m", folder, "--as-embedding", "--precision", "fp32")
    ok(*RUN, *embedding, "-o", images)
    ok("textembed", captions, *embedding, "--ask", ABOUT, "-o", texts)
    ok("logits", images, texts, "-o", logits)
    image_rows = np.asarray(features.read(str(images)).splits["test"].features, np.float64)
    text_rows = np.asarray(features.read(str(texts)).features, np.float64)
    a, b = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (image_rows, text_rows))
    found = features.read(str(logits)).splits["test"].features
    np.testing.assert_allclose(found, a @ b.T, atol=1e-6)
    details = features.read(str(texts)).history.model
    assert details["prompt"] == f"USER: {ABOUT}ASSISTANT:"
    ok("textembed", "--classes", images, *embedding, "--ask", ABOUT, "-o", tmp_path / "classes.h5")
    ok("logits", images, tmp_path / "classes.h5", "-o", tmp_path / "of_classes.h5")
    ok("zeroshot", tmp_path / "of_classes.h5")
    page = tmp_path / "page.html"
    ok("report", tmp_path / "of_classes.h5", images, "-o", page)
    assert f"--ask {QUESTION!r} --as-embedding" in html.unescape(page.read_text())
    ok("embed", "digits", *RUN[2:], *embedding[:2], "-o", tmp_path / "said.h5")
    line = fails("logits", tmp_path / "said.h5", texts, "-o", tmp_path / "none.h5")
    assert "have different similarities" in line
    assert "hint: embed both with --as-embedding, or both without" in line


RUN = ("embed", "digits", "--split", "test", "--limit", 20, "-b", 4, "--ask", QUESTION)


@pytest.mark.long
def test_parts_and_a_continued_run_in_bfloat16_give_the_bytes_of_one_run(
    vlm, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 8)
    run = (*RUN, "-m", vlm(FAST)[0], "--precision", "bf16")
    ok(*run, "-o", tmp_path / "whole.h5")
    for number in (1, 2):
        ok(*run, "-o", tmp_path / "parted.h5", "--part", f"{number}/2")
    stop_at(2, monkeypatch, *run, "-o", tmp_path / "continued.h5")
    assert "resuming" in ok(*run, "-o", tmp_path / "continued.h5").stderr
    whole = (tmp_path / "whole.h5").read_bytes()
    assert whole == (tmp_path / "parted.h5").read_bytes()
    assert whole == (tmp_path / "continued.h5").read_bytes()
    details = features.read(str(tmp_path / "whole.h5")).history.model
    assert details["prompt"] == f"USER: <image>\n{QUESTION}ASSISTANT:"
    assert (details["question"], details["at"]) == (QUESTION, "last")
    assert details["preprocessing"]["image_processor_type"] == "CLIPImageProcessor"


@pytest.mark.long
def test_choices_stand_in_the_question_and_their_letters_are_the_answers(vlm, tmp_path):
    folder = vlm(FAST)[0]
    images, words, logits = (tmp_path / f"{name}.h5" for name in ("images", "words", "logits"))
    choices = tmp_path / "choices.txt"
    choices.write_text("zero\none\ta straight line\n")
    ok(*RUN, "-m", folder, "--choices", choices, "-o", images)
    ok("textembed", "--classes", images, "-o", words)
    file = features.read(str(words))
    assert file.class_names == ["zero", "one"]
    assert file.texts == ["A", "B"]
    assert "image?\nA. zero\nB. a straight line\nAnswer" in file.history.model["prompt"]
    question = file.history.model["question"]
    rows = load(folder, "text", ask=question).encode_texts(["A", "B"])
    np.testing.assert_array_equal(rows, file.features)
    ok("logits", images, words, "-o", logits)
    wide = np.asarray(features.read(str(images)).splits["test"].features, np.float64)
    found = features.read(str(logits)).splits["test"].features
    np.testing.assert_array_equal(found, (wide @ rows.T.astype(np.float64)).astype(np.float32))


def test_an_untrained_control_is_what_the_library_makes_of_the_configuration(vlm):
    folder, model = vlm(FAST)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = transformers.AutoModelForImageTextToText.from_config(model.config)
    encoder = load(folder, untrained=7)
    made = encoder._tower.model.state_dict()
    for name, values in expected.state_dict().items():
        torch.testing.assert_close(made[name], values, rtol=0, atol=0)
    assert load(folder, "text", untrained=7).details["digest"] == encoder.details["digest"]


@pytest.mark.long
def test_a_model_in_several_files_is_read_and_the_answer_follows_the_space_of_the_template(
    vlm, tmp_path
):
    folder, model = vlm(FAST)
    sharded = shutil.copytree(folder, tmp_path / "sharded", ignore=lambda *_: ["model.safetensors"])
    model.save_pretrained(sharded, max_shard_size="50KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    a, b = (load(one).encode_images(images()) for one in (folder, sharded))
    np.testing.assert_array_equal(a, b)
    question = load(sharded, "text")._tokenizer.question
    for answer in ("heart", " heart"):
        tokens = question.answer_tokens(answer)
        assert question.tokenizer.convert_ids_to_tokens(tokens) == ["Ġheart"]


@pytest.mark.long
@pytest.mark.parametrize("factor", [1, 0.25])
def test_the_scale_of_logits_is_measured_and_not_only_read(tmp_path, monkeypatch, factor):
    # a LLaVA around a Cohere ignores the setting; another class of transformers may follow it
    llava(tmp_path, model_type="cohere", logit_scale=0.25)
    kind = transformers.LlavaForConditionalGeneration
    forward = kind.forward

    @functools.wraps(forward)
    def scaled(*arguments, **named):
        outputs = forward(*arguments, **named)
        outputs.logits = outputs.logits * factor
        return outputs

    monkeypatch.setattr(kind, "forward", scaled)
    assert load(tmp_path).details.get("logit_scale", 1) == factor
    factor = 3.3
    with pytest.raises(ClipkitError, match="expected next-token logits that are products"):
        load(tmp_path)


def spoil(tensors):
    tensors["multi_modal_projector.linear_1.weight"][0, 0] = float("nan")


def drop(tensors):
    del tensors["multi_modal_projector.linear_1.weight"]


def pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


CONFIG, PROCESSOR = "config.json", "processor_config.json"
LARGE = {"hidden_size": 2**20}
DAMAGES = [
    (pickle, "expected model.safetensors, got only pytorch_model.bin, a pickle"),
    (lambda folder: edit_tensors(folder, spoil), "expected finite weights, got NaN or Inf in"),
    (lambda folder: edit_tensors(folder, drop), "weights that fit config.json; missing: m"),
    (lambda folder: (folder / PROCESSOR).unlink(), "expected its image processor in"),
    (
        lambda folder: (folder / "chat_template.jinja").write_text("{% x %}"),
        "load the chat template of",
    ),
    (lambda folder: (folder / "chat_template.jinja").write_text("<image>"), "repeats the question"),
    (
        lambda folder: edit_json(folder / PROCESSOR, lambda it: it.update(patch_size=4)),
        "copy: cannot ask the model: ",
    ),
    (
        lambda folder: edit_json(folder / CONFIG, lambda it: it["text_config"].update(LARGE)),
        "expected weights that fit config.json, which has",
    ),
    (
        lambda folder: edit_json(folder / CONFIG, lambda it: it.update(model_type="own")),
        "expected a model that clipkit reads, got model_type 'own'",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_model_is_refused_in_one_line(copied, tmp_path, damage, message):
    damage(copied)
    assert message in fails(*RUN, "-m", copied, "-o", tmp_path / "img.h5")


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        ([*RUN[:-2]], "expected a question with a generative model, got none", 2),
        ([*RUN[:-1], "Is <image> it?"], "expected a question in plain text, got the special", 2),
        ([*RUN[:-1], " "], "expected a question, got ' '", 2),
        ([*RUN, "--model", "tiny"], "tiny: expected no --ask with images of", 2),
        ([*RUN, "--normalize"], "expected --ask without --normalize", 2),
        ([*RUN, "--norm"], "expected no --norm with --ask", 2),
        ([*RUN[:-2], "--at", "image"], "expected --ask with --at, got none", 2),
        ([*RUN, "--choices", "cifar100"], "--choices: expected at most 26", 1),
        (["textembed", "--classes", "cifar10"], "expected a question with a generative", 2),
        (
            ["textembed", "--classes", "cifar10", "--template", "a {}", "--ask", QUESTION],
            "'a airplane' and 'a automobile': expected answers that differ in their first token",
            1,
        ),
        (
            ["textembed", "generic32", "--ask", QUESTION, "--layer", 1],
            "expected no --layers with words",
            2,
        ),
        ([*RUN[:-2], "--as-embedding"], "expected --ask with --as-embedding, got none", 2),
        ([*RUN, "--as-embedding", "--at", "image"], "expected --as-embedding without --at", 2),
        (
            ["textembed", "generic32", "--ask", QUESTION, "--as-embedding"],
            "expected a question with {}, where each text goes, got 'What shape",
            2,
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(vlm, tmp_path, words, message, code):
    command, *others = words
    line = (command, "-m", vlm(FAST)[0], *others, "-o", tmp_path / "out.h5")
    assert message in fails(*line, exit_code=code)


def test_answers_that_begin_alike_are_named_with_their_lines(vlm, tmp_path):
    answers = tmp_path / "ans.txt"
    answers.write_text("a cat\na dog\n")
    line = ("textembed", answers, "--ask", QUESTION, "-m", vlm(FAST)[0], "-o", tmp_path / "t.h5")
    message = fails(*line)
    assert "ans.txt, line 1 and " in message
    assert "for 'a cat' and 'a dog'; hint: " in message


@pytest.mark.long
@versions.BLIP
def test_a_model_without_an_output_embedding_is_refused(tmp_path):
    text = {key: TEXT[key] for key in ("hidden_size", "vocab_size", "num_attention_heads")}
    words = {**text, "encoder_hidden_size": VISION["hidden_size"]}
    config = transformers.BlipConfig(text_config=words, vision_config=VISION)
    images = transformers.BlipImageProcessor(size=image_size()["size"])
    processor = transformers.BlipProcessor(images, tokenizer())
    save(tmp_path, transformers.BlipForConditionalGeneration, config, processor)
    with pytest.raises(ClipkitError, match="got BlipForConditionalGeneration without"):
        load(tmp_path)


def test_a_smolvlm_without_its_package_says_what_to_install(vlm, tmp_path, monkeypatch):
    shutil.copytree(vlm("idefics3")[0], tmp_path / "copy")
    kind = transformers.models.idefics3.processing_idefics3.Idefics3Processor

    def fail(*_, **options):
        raise ImportError("Package `num2words` is required to run SmolVLM processor.")

    monkeypatch.setattr(kind, "__init__", fail)
    with pytest.raises(ClipkitError) as caught:
        load(tmp_path / "copy")
    assert caught.value.hint == "install it: pip install 'clipkit-vl[smolvlm]'"


def test_an_error_says_that_a_newer_transformers_saved_the_model():
    for saved_by in ("4.9", transformers.__version__, None):
        with pytest.raises(ClipkitError) as caught, newer_transformers(saved_by):
            raise ClipkitError("no processor")
        assert caught.value.hint is None
    with pytest.raises(ClipkitError) as caught, newer_transformers("99.1.0"):
        raise ClipkitError("no processor")
    assert caught.value.hint.startswith("transformers 99.1.0 saved it and ")


def test_a_model_without_a_token_for_images_has_no_mean_over_the_image():
    inputs = {"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 2)}
    model = SimpleNamespace(config=None)
    asked = AskedModel(model, Stack([], None), (0,), "image", norm=False)
    with pytest.raises(ClipkitError, match="expected the image_token_id of"):
        asked._pool(torch.ones(1, 2, 3), inputs)
