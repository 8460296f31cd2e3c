"""Find a model's files by its name: bundled, in a folder or on the Hugging Face Hub.

Weights are read in safetensors form only, and code that a repository holds is never fetched. No
library gets the path of a model's folder: it gets tensors, settings or copies of the side files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.base import console, files, suggestions
from clipkit.base.errors import ClipkitError, UsageError, brief, unknown
from clipkit.base.files import digest, temporary_folder
from clipkit.features.endings import KNOWN_ENDINGS
from clipkit.models.folders import (
    PICKLE_SUFFIXES,
    convert_hint,
    find_unusable_weights,
    recognize,
)
from clipkit.models.libraries import check_installed, import_library
from clipkit.models.options import DEFAULT

PREFIX = "open_clip:"  # asks for OpenCLIP's form of a repository or folder that has several
PYTHON = "python:"  # asks for one's own encoder, by the file and the function that makes it
# A repository of timm may also hold its image tower alone, by config.json, which goes first.
OPEN_CLIP_ALIASES = {
    "ViT-B-32/laion2b_s34b_b79k": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "ViT-B-32/datacomp_xl_s13b_b90k": "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    "ViT-B-32-256/datacomp_s34b_b86k": "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
    "ViT-B-16/laion2b_s34b_b88k": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "ViT-B-16/datacomp_xl_s13b_b90k": "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    "ViT-L-14/laion2b_s32b_b82k": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "ViT-L-14/datacomp_xl_s13b_b90k": "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    "ViT-H-14/laion2b_s32b_b79k": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "ViT-g-14/laion2b_s34b_b88k": "laion/CLIP-ViT-g-14-laion2B-s34B-b88K",
    "ViT-bigG-14/laion2b_s39b_b160k": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "ViT-B-16-SigLIP/webli": f"{PREFIX}timm/ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP2/webli": f"{PREFIX}timm/ViT-B-16-SigLIP2",
    "EVA02-B-16/merged2b_s8b_b131k": f"{PREFIX}timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k",
    "PE-Core-B-16/meta": f"{PREFIX}timm/PE-Core-B-16",
    "MobileCLIP2-S0/dfndr2b": f"{PREFIX}timm/MobileCLIP2-S0-OpenCLIP",
}
TINY = Path(__file__).parents[1] / "tiny"
BUNDLED = {"tiny": TINY, "tiny-llava": TINY / "llava"}
OPENAI_ALIASES = {
    ("ViT-B/32", "ViT-B-32", "ViT-B-32/openai"): DEFAULT,
    ("ViT-B/16", "ViT-B-16", "ViT-B-16/openai"): "openai/clip-vit-base-patch16",
    ("ViT-L/14", "ViT-L-14", "ViT-L-14/openai"): "openai/clip-vit-large-patch14",
    ("ViT-L/14@336px", "ViT-L-14-336", "ViT-L-14-336/openai"): (
        "openai/clip-vit-large-patch14-336"
    ),
}
ALIASES = dict(OPEN_CLIP_ALIASES)
for _names, _repository in OPENAI_ALIASES.items():
    ALIASES |= dict.fromkeys(_names, _repository)
KNOWN = [*BUNDLED, DEFAULT, *(alias for alias in ALIASES if not alias.endswith("/openai"))]
REPOSITORY = re.compile(r"(?!\.)[\w.-]+/[\w.-]+")
OTHER_REPOSITORY = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)?")  # old ones have no owner
SHORT_NAME = re.compile(r"ViT-[\w-]+/.*")  # an alias, or a misspelt one, but no repository
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")
SHARD = re.compile(r"[\w.-]+\.safetensors")
CONFIG_PATTERNS = ["*.json", "*.txt", "*.model", "*.jinja"]
OPEN_CLIP_CONFIG = "open_clip_config.json"
TIMM_KINDS = (None, "timm_wrapper")  # saved by timm, and by transformers around it
# The name of the weights of each library, in safetensors form.
WEIGHTS = {"transformers": "model", "open_clip": "open_clip_model", "timm": "model"}
FILE_ENDINGS = (*KNOWN_ENDINGS, *PICKLE_SUFFIXES)  # no repository ends so
# The files beside the weights that decide an embedding: settings and vocabularies.
SETTINGS_FILES = re.compile(
    r"(open_clip_)?config\.json|(pre)?processor_config\.json"
    r"|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
)
VOCABULARY_FILES = re.compile(
    r"tokenizer(\.[\w.-]+)?\.json|vocab\.(json|txt)|merges\.txt|[\w.-]+\.model"
)
# Settings that only another library reads.
UNUSED_FILES = {
    "transformers": (OPEN_CLIP_CONFIG,),
    "open_clip": ("config.json", "preprocessor_config.json", "processor_config.json"),
}
# Libraries read these, too, but they decide no embedding; a history has the prompt of a template.
OTHER_FILES = ("chat_template.jinja", "chat_template.json", "video_preprocessor_config.json")
# By these settings, transformers would load weights of another name, a model of any class from any
# place, or code that replaces layers.
LOADING_SETTINGS = {"transformers_weights", "audio_tokenizer", "fusion_config"}
MAX_SETTINGS_BYTES = 2**22  # transformers copies them: 16 MiB of JSON take 3 GB and 40 s
MAX_VOCABULARY_BYTES = 2**27  # 256,000 tokens take 34 MB; MetaCLIP 2 has 900,000
MAX_COMMAS = 2_500_000  # of JSON: 900,000 tokens with their scores have 1.8 million
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
CONVERTER = "SFconvertbot"  # the Hub's own account, which offers safetensors as pull requests
CONVERTED = "clipkit-converted"  # a reference in the local cache to the conversion used last
OFFLINE_HINT = (
    "without a network: --model tiny is bundled; set HF_HUB_OFFLINE=1 for a model fetched before, "
    "or give a local folder"
)
NO_MODEL_HINT = "for known ones: clipkit list models; to embed images: clipkit embed PHOTOS"


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model on this machine.

    Attributes
    ----------
    name : str
        The model's name as histories record it: the repository in place of an alias.
    folder : Path
        Holds config.json and the files of the tokenizer and the image processor.
    weights : tuple of Path
        The safetensors files in name order; empty if only the architecture was asked for.
    library : str
        ``transformers``, ``open_clip`` or ``timm``.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    library: str = "transformers"

    @property
    def config(self) -> str:
        """The name of the file that describes the architecture."""
        return OPEN_CLIP_CONFIG if self.library == "open_clip" else "config.json"

    @property
    def is_bundled(self) -> bool:
        """Whether the model is bundled with clipkit."""
        return self.folder in BUNDLED.values()

    @property
    def is_generative(self) -> bool:
        """Whether it is a model of transformers that answers questions about images."""
        from clipkit.models.families import is_generative

        return self.library == "transformers" and is_generative(self.read_json("config.json"))

    def read_json(self, file: str) -> dict[str, Any]:
        """Read one of the folder's JSON files, which holds an object."""
        return _read_json(self.folder / file)

    def digest_weights(self) -> str:
        """Return ``sha256:<hex>`` over the bytes of the weight files in name order."""
        sha = hashlib.sha256()
        for path in self.weights:
            with path.open("rb") as stream:
                while block := stream.read(1 << 22):
                    sha.update(block)
        return f"sha256:{sha.hexdigest()}"

    def digest_side_files(self) -> dict[str, str]:
        """Return ``sha256:<hex>`` of each side file: each file of settings or of a vocabulary."""
        paths = _side_files(self.folder, self.library)
        return {str(path.relative_to(self.folder)): digest_file(path) for path in paths}

    @contextlib.contextmanager
    def side_folder(self) -> Iterator[Path]:
        """Yield a folder with copies of the side files alone, for a library that reads a folder.

        It holds no weights, and no setting leads to others.
        """
        others = [self.folder / name for name in OTHER_FILES]
        with temporary_folder() as folder:
            for path in [*_side_files(self.folder), *filter(Path.exists, others)]:
                copy = folder / path.relative_to(self.folder)
                copy.parent.mkdir(exist_ok=True)
                copy.write_bytes(_without_loading_settings(_read_side_file(path)))
            try:
                yield folder
            except (ClipkitError, MemoryError):
                raise
            except Exception as error:
                if str(folder) not in str(error):
                    raise
                raise ValueError(str(error).replace(str(folder), self.name)) from error


def digest_file(path: Path) -> str:
    """Return ``sha256:<hex>`` of a side file."""
    return digest(_read_side_file(path))


def _read_side_file(path: Path) -> bytes:
    _check_side_file(path)
    limit = _most_bytes(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise ClipkitError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > limit:  # a file that grows, or one of a system that states no size
        raise _too_large(path, f"more than {limit:,}")
    commas = content.count(b",") if path.suffix == ".json" else 0
    if commas > MAX_COMMAS:  # before it is parsed, which takes 23 times the bytes
        raise ClipkitError(f"{path}: expected at most {MAX_COMMAS:,} commas, got {commas:,}")
    return content


def _without_loading_settings(data: bytes) -> bytes:
    """Return a side file without `LOADING_SETTINGS`, if it is a JSON object that has one."""
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
        is_object = isinstance(content, dict)
        unset = {"model_args"} if is_object and content.get("model_args", "") is None else set()
        left_out = LOADING_SETTINGS | unset  # transformers writes null where timm wants an object
        if is_object and not left_out.isdisjoint(content):
            kept = {key: value for key, value in content.items() if key not in left_out}
            return json.dumps(kept).encode()
    return data


def combine_digests(parts: Mapping[str, str]) -> str:
    """Return a model's digest, made of a JSON object with the digests of its parts."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return digest(text.encode())


def find(name: str, *, weights: bool = True) -> ModelFiles:
    """Find a model's files, and fetch missing ones from the Hugging Face Hub.

    Parameters
    ----------
    name : str
        ``tiny`` or ``tiny-llava``, which are bundled, an alias such as ``ViT-B/32``, a pair
        ``ARCH/TAG`` that open_clip lists, ``timm:NAME``, a local folder, or a Hub id (``org/name``
        or ``hf-hub:org/name``). ``open_clip:`` before it asks for OpenCLIP's form of a model that
        has several.
    weights : bool
        False if the architecture is enough.
    """
    if is_python(name):
        raise UsageError(
            f"expected a model that clipkit reads, got one's own encoder {name}",
            "its feature files say what it is: clipkit info FILE.h5",
        )
    form, separator, rest = name.partition(":")
    if form == "timm" and separator:
        name = _timm_repository(rest)
    folder = _local_folder(name.removeprefix(PREFIX))
    is_local = folder.is_dir()
    if not is_local:
        name = _resolve(name)
    prefix = PREFIX if name.startswith(PREFIX) else ""
    name = name.removeprefix(prefix)
    if not is_local:
        _check_form(name)
        name = name.removeprefix("hf-hub:")
        folder = _fetch(name, CONFIG_PATTERNS)
    library = _find_library(name, folder, prefix)
    if not weights:
        return ModelFiles(prefix + name, folder, (), library)
    stem = WEIGHTS[library]
    if not is_local:
        _fetch(name, weight_patterns(stem), revision=folder.name)
    files = _weight_files(folder, stem)
    if not files:
        if is_local:
            raise _no_safetensors(name, folder, stem)
        files = _weight_files(_fetch_conversion(name, stem), stem)
    return ModelFiles(prefix + name, folder, files, library)


def check_name(name: str) -> None:
    """Refuse what can name no model, as `find` does, without a network or a model's library."""
    if is_python(name):
        parse_python(name)
        return
    local = name.removeprefix(PREFIX)
    is_known = name in ALIASES or name.startswith("timm:") or SHORT_NAME.fullmatch(local)
    if not is_known and not _local_folder(local).is_dir():
        _check_form(local)


def is_python(name: str) -> bool:
    """Whether a name asks for one's own encoder."""
    return name.startswith(PYTHON)


def parse_python(name: str) -> tuple[Path, str]:
    """Return the file and the function of ``python:FILE.py:make``."""
    file, _, function = name.removeprefix(PYTHON).rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise UsageError(
            f"expected a Python file and a function that makes the encoder, got {name!r}",
            f"name both: --model {PYTHON}FILE.py:make",
        )
    path = files.expand_user(file)
    if not path.is_file():
        raise files.missing(file)
    return path, function


def check_device(name: str) -> str:
    """Return the name of a device, if one may be called so."""
    if DEVICE.fullmatch(name):
        return name
    meant = name.lower().replace("gpu", "cuda")
    hint = unknown("device", meant, ["auto", "cpu", "cuda", "mps"]).hint
    raise UsageError(f"unknown device {name!r}", hint)


def _local_folder(name: str) -> Path:
    if not name:
        raise UsageError("expected the name of a model, got ''")
    return BUNDLED.get(name) or files.expand_user(name)


def canonical_name(name: str) -> str:
    """Return the name that a history has for a model: the repository of an alias or Hub id."""
    return ALIASES.get(name, name.removeprefix("hf-hub:"))


def _resolve(name: str) -> str:
    """Return the repository of a short name, with `PREFIX` if it needs that; else the name."""
    if name in ALIASES:
        return ALIASES[name]
    short = name.removeprefix(PREFIX)
    listed = look_up(short)
    if listed is None and short in ALIASES:
        listed = PREFIX + ALIASES[short].removeprefix(PREFIX)
    return listed or name


def fetch_config(files: ModelFiles, name: str) -> Path:
    """Return the folder of another model's config.json: inside a model's folder, or fetched.

    The settings of the model with these `files` name the other one: a folder or a Hub id.
    """
    folder = (files.folder / name).resolve()
    if folder.is_dir() and folder.is_relative_to(files.folder.resolve()):
        return folder
    if not OTHER_REPOSITORY.fullmatch(name):
        raise ClipkitError(
            f"{files.name}: expected a folder in that of the model or a repository, got {name!r}"
        )
    return _fetch(name, ["config.json"])


def _timm_repository(name: str) -> str:
    """Return the repository of a model of timm: of its default weights if a name has no tag."""
    check_installed(f"timm:{name}", "timm")
    timm = import_library("timm")
    known = timm.list_pretrained()
    if "." not in name and timm.is_model(name):
        name = f"{name}.{timm.get_pretrained_cfg(name).tag}"
    if name not in known:
        raise unknown("model of timm", name, known)
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    if repository not in ("timm/", f"timm/{name}"):
        raise ClipkitError(
            f"timm:{name}: expected weights in timm/{name}, got {repository or 'none'}",
            "give the repository that has the weights, if there is one: hf-hub:ORG/NAME",
        )
    return f"timm/{name}"


def _find_library(name: str, folder: Path, prefix: str) -> str:
    """Return the library that a folder's files are for; what config.json says wins.

    Check that the library can safely read what it finds, and that clipkit knows the kind of model
    before its weights are fetched.
    """
    library = ""
    content: dict[str, Any] = {}
    if not prefix and (folder / "config.json").is_file():
        content = _read_json(folder / "config.json")
        is_timm = "architecture" in content and content.get("model_type") in TIMM_KINDS
        library = "timm" if is_timm else "transformers"
    elif (folder / OPEN_CLIP_CONFIG).is_file():
        library = "open_clip"
    _check_folder(name, folder, library, content)
    if not library:
        expected = OPEN_CLIP_CONFIG if prefix else f"config.json or {OPEN_CLIP_CONFIG}"
        got, hint = recognize(folder, name) or ("none", NO_MODEL_HINT)
        raise ClipkitError(f"{name}: expected a model's {expected}, got {got}", hint)
    if library == "transformers":
        from clipkit.models.families import find_family, is_generative

        if not is_generative(content):
            find_family(name, content)
    return library


def _check_folder(name: str, folder: Path, library: str, config: Mapping[str, Any]) -> None:
    """Refuse side files that a library cannot safely read, and weights that are no whole model."""
    others = (*OTHER_FILES, "model.safetensors.index.json", "adapter_config.json")
    for path in [*_side_files(folder, library), *(folder / other for other in others)]:
        _check_side_file(path)
    unusable = find_unusable_weights(folder, config)
    if unusable:
        message = f"{name}: expected a whole model in floating point, got {unusable.got}"
        raise ClipkitError(message, unusable.hint)


def _side_files(folder: Path, library: str = "") -> list[Path]:
    """Return the folder's files of settings and vocabularies, in name order.

    Leave out those that the library does not read. A second tokenizer has a folder of its own.
    """
    try:
        entries = sorted(folder.iterdir())
        for path in list(entries):
            if path.name.endswith("_tokenizer") and path.is_dir():
                entries += sorted(path.iterdir())
    except OSError as error:
        raise ClipkitError(f"cannot read {folder}: {error.strerror}") from None
    unused = UNUSED_FILES.get(library, ())
    files = []
    for path in entries:
        decides = SETTINGS_FILES.fullmatch(path.name) or VOCABULARY_FILES.fullmatch(path.name)
        if decides and path.name not in unused:
            files.append(path)
    return files


def _check_side_file(path: Path) -> None:
    """Refuse what would be read forever, take much memory or only stand for a file."""
    if not path.exists():
        return
    if not path.is_file():
        raise ClipkitError(f"{path}: expected a regular file, got a folder, FIFO or device")
    size = path.stat().st_size
    if size > _most_bytes(path):
        raise _too_large(path, f"{size:,}")
    check_no_pointer(path)


def _most_bytes(path: Path) -> int:
    return MAX_VOCABULARY_BYTES if VOCABULARY_FILES.fullmatch(path.name) else MAX_SETTINGS_BYTES


def _too_large(path: Path, size: str) -> ClipkitError:
    limit = _most_bytes(path) >> 20
    return ClipkitError(f"{path}: expected at most {limit} MiB, got {size} bytes")


def check_no_pointer(path: Path) -> None:
    """Refuse a file that cannot be opened, or that Git LFS has not fetched."""
    try:
        with path.open("rb") as stream:
            start = stream.read(len(LFS_POINTER))
    except OSError as error:
        raise ClipkitError(f"cannot read {path}: {error.strerror}") from None
    if start == LFS_POINTER:
        hint = "fetch the file itself: git lfs pull"
        raise ClipkitError(f"{path}: expected the file, got a Git LFS pointer", hint)


def weight_patterns(stem: str) -> list[str]:
    """Return the patterns of the weight files of this name: in one file, or in several."""
    file = f"{stem}.safetensors"
    return [file, f"{stem}-*.safetensors", f"{file}.index.json"]


def _weight_files(folder: Path, stem: str) -> tuple[Path, ...]:
    """Return the safetensors files that the library would read, in name order."""
    file = f"{stem}.safetensors"
    if (folder / file).is_file():
        return (folder / file,)
    index = folder / f"{file}.index.json"
    if not index.is_file():
        return ()
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        return ()
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:  # an untrusted index must not name files elsewhere
        if not SHARD.fullmatch(shard):
            raise ClipkitError(f"{index}: expected safetensors files in its folder, got {shard!r}")
        if not (folder / shard).is_file():
            raise ClipkitError(f"{folder / shard} is missing, which {index.name} lists")
    return tuple(folder / shard for shard in shards)


def _no_safetensors(name: str, folder: Path, stem: str) -> ClipkitError:
    names = sorted(path.name for path in folder.iterdir())
    _check_side_file(folder / f"{stem}.safetensors")  # it may be a FIFO
    others = [other for other in names if other.endswith(".safetensors")]
    pickles = [other for other in names if Path(other).suffix in PICKLE_SUFFIXES]
    got, hint = recognize(folder, name) or ("no weights", "save the model again as safetensors")
    if others:
        got = ", ".join(others)
        hint = (
            "if that file holds the whole model, rename it or link to it: "
            + suggestions.command("ln", "-s", suggestions.path(others[0]), f"{stem}.safetensors")
        )
    elif pickles:
        got = f"only {', '.join(pickles)}, a pickle, which can run code and is not read"
        hint = convert_hint(folder / pickles[0], stem)
    return ClipkitError(f"{name}: expected {stem}.safetensors, got {got}", hint)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ClipkitError(f"cannot read {path}: there is no such file")
    try:
        content = json.loads(_without_loading_settings(_read_side_file(path)))
    except (ValueError, RecursionError) as error:
        raise ClipkitError(f"{path}: expected valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ClipkitError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _check_form(name: str) -> None:
    """Refuse a name that is no folder and no name of a repository."""
    if os.path.exists(name):  # noqa: PTH110
        hint = f"give the folder of the file and its config.json: {os.path.dirname(name) or '.'}"  # noqa: PTH120
        if Path(name).suffix in PICKLE_SUFFIXES:
            hint = convert_hint(Path(name), "model")
        raise ClipkitError(f"{name}: expected a model's folder, got a file", hint)
    if name.lower().endswith(FILE_ENDINGS):
        raise files.missing(name)
    if SHORT_NAME.fullmatch(name):
        raise unknown_name(name, KNOWN)
    if any(name.lower() == known.lower() for known in ALIASES):  # no repository is called so
        raise unknown("model", name, KNOWN)
    if REPOSITORY.fullmatch(name.removeprefix("hf-hub:")):
        return
    if "/" in name:
        raise ClipkitError(f"cannot read {name}: there is no such folder")
    raise unknown("model", name, KNOWN).adding_hint("or give a folder or a Hub repository")


def _fetch_conversion(repo: str, stem: str) -> Path:
    """Fetch the newest conversion to safetensors that the Hub's own bot offers as a pull request.

    Anyone can open a pull request, so requests of other accounts are ignored. The local cache keeps
    a reference to the conversion, by which it is found without a network.
    """
    from huggingface_hub import HfApi

    patterns = weight_patterns(stem)
    try:
        with _quiet_client():
            requests = HfApi().get_repo_discussions(
                repo, author=CONVERTER, discussion_type="pull_request"
            )
            # the client's filter by author is repeated here, since it decides what is trusted
            offers = [
                request.num
                for request in requests
                if request.author == CONVERTER and request.status in {"open", "draft"}
            ]
    except Exception as error:  # the client's errors have no common base over its versions
        with contextlib.suppress(ClipkitError):
            return _fetch(repo, patterns, revision=CONVERTED, local_files_only=True)
        raise _fetch_error(repo, error) from error
    if not offers:
        raise ClipkitError(
            f"{repo}: expected {stem}.safetensors, but the Hub has neither that nor a conversion",
            "request one (the Hub's space safetensors/convert), or give a folder that holds "
            f"{stem}.safetensors",
        )
    newest = max(offers)
    folder = _fetch(repo, patterns, revision=f"refs/pr/{newest}")
    if not _weight_files(folder, stem):
        raise ClipkitError(
            f"{repo}: expected {stem}.safetensors in pull request {newest} of {CONVERTER}, got none"
        )
    with contextlib.suppress(OSError):  # a cache may be read-only
        (folder.parents[1] / "refs" / CONVERTED).write_text(folder.name)
    return folder


def _fetch(repo: str, patterns: list[str], **options: Any) -> Path:
    """Fetch a repository's files of these patterns into the local cache; return their folder."""
    from huggingface_hub import snapshot_download

    try:
        with _quiet_client():
            return Path(snapshot_download(repo, allow_patterns=patterns, **options))
    except Exception as error:  # the client's errors have no common base over its versions
        raise _fetch_error(repo, error) from error


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Silence the client's log, and its progress bars unless a person watches them."""
    import huggingface_hub.utils

    client: Any = huggingface_hub.utils
    level = client.logging.get_verbosity()
    hide_bars = not client.are_progress_bars_disabled() and not console.is_watched()
    client.logging.set_verbosity(logging.CRITICAL)
    if hide_bars:
        client.disable_progress_bars()
    try:
        yield
    finally:
        client.logging.set_verbosity(level)
        if hide_bars:
            client.enable_progress_bars()


def _fetch_error(repo: str, error: Exception) -> ClipkitError:
    """Return a one-line error for a failed fetch from the Hub."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return ClipkitError(
            f"cannot fetch {repo}: it is gated on the Hugging Face Hub",
            "accept its terms there, then log in: hf auth login",
        )
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return ClipkitError(
            f"no folder and no public Hugging Face repository is named {repo}",
            unknown("model", repo, KNOWN).hint,
        )
    if constants.HF_HUB_OFFLINE:
        return ClipkitError(
            f"cannot fetch {repo}: the local cache lacks files of it, and HF_HUB_OFFLINE is set",
            "unset HF_HUB_OFFLINE to fetch it, give a local folder, or try --model tiny",
        )
    reason = brief(error).removeprefix("Got: ").rstrip(" .")
    return ClipkitError(f"cannot fetch {repo} from the Hugging Face Hub: {reason}", OFFLINE_HINT)


def look_up(name: str) -> str | None:
    """Return ``open_clip:`` and the repository of ARCH/TAG by open_clip's table.

    The table is imported only if ARCH is one of open_clip's architectures. Return None if it is
    not, or if open_clip is not installed.
    """
    architecture, _, tag = name.partition("/")
    folder = _model_configs()
    if not tag or folder is None or not (folder / f"{architecture}.json").is_file():
        return None
    entry = import_library("open_clip").get_pretrained_cfg(architecture, tag)
    if not entry:
        raise unknown("model", name, names())
    file = str(entry.get("hf_hub", ""))  # REPOSITORY/FILE, where FILE may be empty
    repository = file.rpartition("/")[0]
    if not repository:
        raise ClipkitError(
            f"{name}: expected weights on the Hugging Face Hub, got only a pickle at a URL, which "
            "can run code and is not read"
        )
    return PREFIX + repository


def names() -> list[str]:
    """Return all pairs ARCH/TAG in open_clip's table; those listed here if it is not installed."""
    if _model_configs() is None:
        return list(OPEN_CLIP_ALIASES)
    pairs = import_library("open_clip").list_pretrained()
    return [f"{architecture}/{tag}" for architecture, tag in pairs]


def unknown_name(name: str, known: list[str]) -> UsageError:
    """Return the error for a name that is neither known nor in open_clip's table."""
    error = unknown("model", name, dict.fromkeys([*known, *names()]))
    if _model_configs() is None:
        more = "for the other names of OpenCLIP: pip install 'clipkit-vl[openclip]'"
        error = UsageError(error.message, f"{error.hint} {more}")
    return error


def _model_configs() -> Path | None:
    """Return the folder of open_clip's architectures, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name("model_configs")
