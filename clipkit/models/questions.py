"""Ask a generative model about an image: its prompt, its inputs, and the tokens of answers."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.models.hub import ModelFiles
from clipkit.models.libraries import (
    memory_limit,
    quiet_loading,
    rust_panics,
    single_line_errors,
)
from clipkit.models.preprocessing import Preprocessor, check_has_processor
from clipkit.models.tokenizer import TextTokenizer, switch_dropout_off
from clipkit.prompts.texts import check_length

CHOICES_HINT = "embed --choices lists the answers in the question; the model then says a letter"
PROCESSOR_HINT = "check the numbers in processor_config.json"
PROBE = "clipkit"  # an answer
PLACE = "{}"  # of a text in a question
MAX_TOKENS = 2**17  # of the prompt with one image; the largest known processors make 16,384
MAX_INPUT_BYTES = 2**29  # of one image, prepared
MAX_TEMPLATE_BYTES = 2**29  # that a chat template takes
MAX_PROCESSOR_BYTES = 2**31  # that the processor takes to prepare one image
TAIL = 32  # tokens at the end of a prompt, which decide how an answer is split


class Question(Preprocessor):
    """Prepares images by a model's own processor: each with the same question.

    `prompt` is what the chat template makes of the question, for one image. Texts are padded on the
    right: no position is shifted, and a causal model does not see what follows. `decoder_start` are
    the tokens with which a decoder begins, if it does not read the prompt itself.
    """

    def __init__(
        self,
        files: ModelFiles,
        question: str,
        device: torch.device,
        dtype: torch.dtype,
        decoder_start: Sequence[int] = (),
    ) -> None:
        super().__init__(device, dtype)
        self.decoder_start = list(decoder_start)
        self.name = files.name
        self.question = question
        self._of_thread = threading.local()  # a tokenizer is for one thread at a time
        check_has_processor(files)
        with quiet_loading(f"the processor of {files.name}"), files.side_folder() as folder:
            auto: Any = transformers.AutoProcessor
            self.processor = auto.from_pretrained(folder, trust_remote_code=False)
        self.tokenizer: Any = getattr(self.processor, "tokenizer", None)
        if self.tokenizer is None or getattr(self.processor, "image_processor", None) is None:
            raise ClipkitError(
                f"{files.name}: expected a processor of images and texts, got "
                f"{type(self.processor).__name__}",
                "save it beside the model: processor.save_pretrained(FOLDER)",
            )
        switch_dropout_off(files, self.tokenizer)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.image_token = str(getattr(self.processor, "image_token", None) or "")
        self._check_question()
        self.has_template = bool(getattr(self.processor, "chat_template", None))
        self.marks_image = self.has_template or not self._inserts_image()
        self.prompt = self._render()
        hint = "ask a shorter question, or check its chat template"
        check_length(len(self.prompt), f"{files.name}: its prompt", hint)
        if self.question not in self.prompt:
            raise ClipkitError(
                f"{files.name}: expected a chat template that repeats the question, got the prompt "
                f"{shorten(self.prompt)!r}"
            )
        if not self.has_template:
            console.note(
                f"{files.name} has no chat template: it is asked by the plain prompt "
                f"{shorten(self.prompt)!r}"
            )
        what = f"prepare an image for {files.name}"
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a new thread would take address space
        limit = memory_limit(what, MAX_PROCESSOR_BYTES, PROCESSOR_HINT)
        try:  # before the weights are loaded
            with limit, single_line_errors(what), rust_panics():
                self.resize_and_crop([self.example()])
        finally:
            torch.set_num_threads(threads)

    def _check_question(self) -> None:
        """Refuse a question that is empty or holds a special token of the model."""
        found = self.special_tokens_in(self.question)
        if found:
            raise UsageError(
                f"{self.name}: expected a question in plain text, got the special token {found[0]}",
                "the prompt has the image already",
            )
        if not self.question.strip():
            raise UsageError(f"{self.name}: expected a question, got {self.question!r}")

    def _inserts_image(self) -> bool:
        """Return whether the processor puts image tokens before any prompt, marked or not."""
        if not self.image_token:
            return False
        unmarked = self._count_image_tokens(self.question)
        return (
            unmarked > 0 and self._count_image_tokens(self.image_token + self.question) != unmarked
        )

    def _count_image_tokens(self, prompt: str) -> int:
        """Count the image tokens of a prompt with an image; 0 if the processor refuses it."""
        token = self.tokenizer.convert_tokens_to_ids(self.image_token)
        try:
            with rust_panics():
                ids = self._process([prompt], [self.example()])["input_ids"]
        except Exception:  # processors raise what they like
            return 0
        return int((ids == token).sum())

    def special_tokens_in(self, text: str) -> list[str]:
        """Return the special tokens of the model that a text holds."""
        special = {*self.tokenizer.all_special_tokens, self.image_token}
        return sorted(token for token in special if token and token in text)

    def _render(self, answer: str | None = None, *, has_image: bool = True) -> str:
        """Return the prompt, or the conversation with an answer, as text."""
        if not self.has_template:
            return self.image_token * (has_image and self.marks_image) + self.question
        parts = [{"type": "image"}] * has_image + [{"type": "text", "text": self.question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
        if answer is not None:
            content = [{"type": "text", "text": answer}]
            messages.append({"role": "assistant", "content": content})
        what = f"load the chat template of {self.name}"
        with memory_limit(what, MAX_TEMPLATE_BYTES), single_line_errors(what):
            rendered: str = self.processor.apply_chat_template(
                messages, add_generation_prompt=answer is None, tokenize=False
            )
        return rendered

    def resize_and_crop(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        """Return the processor's inputs of B images of any sizes, in a thread."""
        return self._process([self.prompt] * len(images), images)

    def _process(
        self, prompts: list[str], images: Sequence[Image.Image] = ()
    ) -> dict[str, torch.Tensor]:
        """Return the inputs of B prompts, each with its image if there are images."""
        processor = getattr(self._of_thread, "processor", None)
        if processor is None:
            processor = self._of_thread.processor = copy.deepcopy(self.processor)
        settings: dict[str, Any] = {}
        if images:
            settings["images"] = [[image.convert("RGB")] for image in images]
        start = self.tokenizer.bos_token
        if self.has_template and start and prompts[0].startswith(start):
            settings["add_special_tokens"] = False  # else it would start twice
        inputs = processor(
            text=prompts, padding=True, padding_side="right", return_tensors="pt", **settings
        )
        tensors = {key: value for key, value in inputs.items() if key != "labels"}
        if self.decoder_start:
            tensors["decoder_input_ids"] = torch.tensor([self.decoder_start] * len(prompts))
        if "attention_mask" not in tensors:
            tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
        self._check_size(tensors, len(prompts))
        return tensors

    @cached_property
    def text_prompt(self) -> str:
        """The prompt without an image."""
        return self._render(has_image=False)

    def text_inputs(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the processor's inputs of B prompts without images."""
        return self._process(list(prompts))

    def _check_size(self, inputs: Mapping[str, Any], count: int) -> None:
        """Refuse inputs of B images that have too many tokens, or take too much memory."""
        tokens = inputs["input_ids"].shape[1]
        size = sum(value.nbytes for value in inputs.values() if isinstance(value, torch.Tensor))
        for got, most, what in (
            (tokens, MAX_TOKENS, "tokens"),
            (size // count, MAX_INPUT_BYTES, "bytes of pixels"),
        ):
            if got > most:
                raise ClipkitError(
                    f"{self.name}: expected at most {most:,} {what} of an image, got {got:,}",
                    PROCESSOR_HINT,
                )

    def details(self) -> dict[str, Any]:
        """Return the settings of the image processor, in types that JSON has."""
        settings: dict[str, Any] = json.loads(self.processor.image_processor.to_json_string())
        return {"processor": type(self.processor).__name__, **settings}

    @cached_property
    def tail(self) -> str:
        """The end of the prompt as the model gets it: a processor may add to the template's."""
        ids = self.resize_and_crop([self.example()])["input_ids"][0, -TAIL:]
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    @cached_property
    def tail_tokens(self) -> list[int]:
        """The tokens of the tail without an answer."""
        return self._split(self.tail)

    @cached_property
    def lead(self) -> str:
        """The space that the template has between the prompt and an answer, or ""."""
        if not self.has_template:
            return ""
        before, _, _ = self._render(PROBE).rpartition(PROBE)
        lead = before.removeprefix(self.prompt)
        return lead if lead.isspace() else ""

    def answer_tokens(self, answer: str) -> list[int]:
        """Return the tokens of an answer behind the prompt.

        Both are split together, since a word may have other tokens behind a space. A decoder of its
        own begins without the prompt.
        """
        if self.decoder_start and answer.strip():
            return self._split(answer)
        behind = self.lead + answer.removeprefix(self.lead)
        prompt, joined = self.tail_tokens, self._split(self.tail + behind)
        place = 0
        while prompt[place : place + 1] == joined[place : place + 1] != []:
            place += 1
        if not answer.strip() or place == len(joined):
            raise ClipkitError(f"expected a word as answer, got {answer!r}")
        return joined[place:]

    def _split(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


class Answers(TextTokenizer):
    """Takes words as answers to a question: each is its first token."""

    cleaning = None
    context_length = 10_000

    def __init__(self, name: str, question: Question) -> None:
        self.name = name
        self.question = question
        self.tokenizer = question.tokenizer

    def clean(self, texts: Sequence[str], places: Sequence[str]) -> list[str]:
        """Return the texts, if no two of them begin with the same token."""
        first: dict[int, int] = {}
        longer: list[str] = []
        for number, text in enumerate(texts):
            with single_line_errors(f"tokenize with {self.name}"):
                token, *others = self.question.answer_tokens(text)
            if token == self.tokenizer.unk_token_id:
                raise ClipkitError(
                    f"{places[number]}: expected a word that {self.name} has a token for, got "
                    f"{shorten(text)!r}"
                )
            if others:
                longer.append(f"{self.tokenizer.decode([token])!r} for {text!r}")
            other = first.setdefault(token, number)
            if texts[other] != texts[number]:
                both = f"{shorten(texts[other])!r} and {shorten(text)!r}"
                raise ClipkitError(
                    f"{places[other]} and {places[number]}: expected answers that differ in their "
                    f"first token, got {self.tokenizer.decode([token])!r} for {both}",
                    CHOICES_HINT,
                )
        if longer:
            console.note(
                f"{console.count(len(longer), 'answer')} of several tokens: the first one counts, "
                f"{longer[0]}"
            )
        return list(texts)

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return 1 for each text: only its first token is read."""
        return np.ones(len(texts), np.int64)

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the first token of each text: (B, 1)."""
        return torch.tensor([[self.question.answer_tokens(text)[0]] for text in texts])


class AskedTexts(TextTokenizer):
    """Puts texts into a question, in the place of ``{}``, for their last hidden states.

    The chat template makes a prompt without an image of each.
    """

    cleaning = None
    batch_size = 16  # texts, whose hidden states are as large as those of images

    def __init__(self, name: str, question: Question, context_length: int) -> None:
        self.name = name
        self.question = question
        self.tokenizer = question.tokenizer
        self.context_length = context_length
        if PLACE not in question.question:
            raise UsageError(
                f"{name}: expected a question with {PLACE}, where each text goes, got "
                f"{shorten(question.question)!r}",
                f"for example: --ask 'Represent this caption: {PLACE}'",
            )

    def clean(self, texts: Sequence[str], places: Sequence[str]) -> list[str]:
        """Return the prompts of texts, none of which may hold a special token of the model."""
        for text, place in zip(texts, places, strict=True):
            found = self.question.special_tokens_in(text)
            if found:
                raise ClipkitError(
                    f"{place}: expected plain text, got the special token {found[0]} of {self.name}"
                )
        return [self.question.text_prompt.replace(PLACE, text) for text in texts]

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Count the tokens of each prompt."""
        return np.array([len(self.question._split(text)) for text in texts], np.int64)

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the padded tokens (B, T) of prompts, which must not be cut: their end is read."""
        return self.inputs(texts)["input_ids"]

    def inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return what the model takes of prompts."""
        with single_line_errors(f"tokenize with {self.name}"):
            inputs = self.question.text_inputs(texts)
        if inputs["input_ids"].shape[1] > self.context_length:
            raise ClipkitError(
                f"{self.name}: expected prompts of at most {self.context_length} tokens, which "
                "--truncate cannot cut: their end is read",
                "shorten the texts",
            )
        return inputs
