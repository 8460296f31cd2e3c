"""A model's name -> its files on this machine: aliases, directories and the Hugging Face Hub; safetensors only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.errors import ClipkitError, unknown

DEFAULT = "openai/clip-vit-base-patch32"
TINY = Path(__file__).parents[1] / "tiny"
ALIASES = {
    "ViT-B/32": DEFAULT,
    "ViT-B-32": DEFAULT,
    "ViT-B-32/openai": DEFAULT,
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-B-16": "openai/clip-vit-base-patch16",
    "ViT-B-16/openai": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L-14": "openai/clip-vit-large-patch14",
    "ViT-L-14/openai": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
    "ViT-L-14-336": "openai/clip-vit-large-patch14-336",
    "ViT-L-14-336/openai": "openai/clip-vit-large-patch14-336",
}

KNOWN = ["tiny", DEFAULT, *(alias for alias in ALIASES if not alias.endswith("/openai"))]

CONFIGS = ["*.json", "*.txt", "*.model"]
WEIGHTS = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
CONVERTER = "SFconvertbot"  # the Hub's own account, which offers safetensors as a pull request
CONVERTED = "clipkit-converted"  # our name in the local cache for the conversion taken last, so that it is found offline
OFFLINE_HINT = (
    "without a network: set HF_HUB_OFFLINE=1 for a model fetched before, or give a local directory"
)


@dataclass(frozen=True)
class Files:
    """Where a model lies on this machine.

    Attributes
    ----------
    name : str
        The model's name as a history tells it: an alias is written out.
    folder : Path
        The directory with config.json and the files of the tokenizer and the image processor.
    weights : tuple of Path
        The safetensors files in name order; empty where only the architecture was asked for.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]

    def json(self, file: str) -> dict[str, Any]:
        """One of the folder's JSON files.

        Raises
        ------
        ClipkitError
            If the file is missing or does not hold a JSON object.
        """
        return _read_json(self.folder / file)

    def digest(self) -> str:
        """SHA-256 over the bytes of the weight files in name order, written ``sha256:<hex>``."""
        sha = hashlib.sha256()
        for path in self.weights:
            with path.open("rb") as stream:
                while block := stream.read(1 << 22):
                    sha.update(block)
        return f"sha256:{sha.hexdigest()}"


def find(name: str, *, weights: bool = True) -> Files:
    """Find a model's files, fetching them from the Hugging Face Hub where they are not here.

    Parameters
    ----------
    name : str
        ``tiny`` (the bundled model), an alias such as ``ViT-B/32``, a local directory, a Hub id (``org/name``), or
        ``hf-hub:org/name`` for a repository in Hugging Face form.
    weights : bool
        False where the architecture is enough.

    Raises
    ------
    UsageError
        If the name is none of these.
    ClipkitError
        If the files cannot be had, or the weights are not in safetensors form.
    """
    if name == "tiny":
        return _in_directory(name, TINY, weights)
    if Path(name).expanduser().is_dir():
        return _in_directory(name, Path(name).expanduser(), weights)
    repo = ALIASES.get(name, name.removeprefix("hf-hub:"))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) and not repo.startswith("."):
        return _on_the_hub(repo, weights)
    if "/" in name:
        raise ClipkitError(
            f"a model is a directory or a Hugging Face id; there is no directory {name}"
        )
    raise unknown("model", name, KNOWN)


def _in_directory(name: str, folder: Path, weights: bool) -> Files:
    """A model directory's files, checked."""
    if not (folder / "config.json").is_file():
        if (folder / "open_clip_config.json").is_file():
            raise ClipkitError(
                f"{name} must be in Hugging Face form; it holds OpenCLIP weights, which are not supported yet",
                "give the Hugging Face form of the same model: its repository has a config.json",
            )
        raise ClipkitError(f"{name} must be a model directory; it holds no config.json")
    files = _weight_files(folder) if weights else ()
    if weights and not files:
        raise _no_safetensors(name, folder)
    return Files(name, folder, files)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that transformers would read here, in name order; empty where there are none."""
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ()
    shards = _read_json(index).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    for shard in names:  # an index from a stranger must not point elsewhere
        if not re.fullmatch(r"[\w.-]+\.safetensors", str(shard)) or not (folder / shard).is_file():
            raise ClipkitError(f"{index} must list safetensors files beside it; got {shard!r}")
    return tuple(folder / shard for shard in names)


def _no_safetensors(name: str, folder: Path) -> ClipkitError:
    pickles = [
        path.name for path in folder.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}
    ]
    found = (
        f"only {', '.join(sorted(pickles))}, a pickle, which can run code and is not read"
        if pickles
        else "no weights"
    )
    return ClipkitError(
        f"{name} must hold model.safetensors; it holds {found}",
        "save the model again as safetensors, or take --untrained SEED for the same architecture without its weights",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ClipkitError(f"{path.parent} must hold {path.name}, which is missing") from None
    except (OSError, ValueError) as error:
        raise ClipkitError(f"{path} must be readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise ClipkitError(f"{path} must hold a JSON object; got {type(content).__name__}")
    return content


def _on_the_hub(repo: str, weights: bool) -> Files:
    """A repository's files, from its main branch; weights from the Hub's own conversion where main has only pickles."""
    folder = _snapshot(repo, CONFIGS + (WEIGHTS if weights else []))
    _in_directory(repo, folder, weights=False)
    if not weights:
        return Files(repo, folder, ())
    return Files(repo, folder, _weight_files(folder) or _weight_files(_converted(repo)))


def _converted(repo: str) -> Path:
    """The newest conversion to safetensors that the Hub's own bot offers as a pull request.

    Anyone can open a pull request; only the bot's are taken. The last one is remembered for work without a network.
    """
    from huggingface_hub import HfApi

    try:
        with _quiet():
            found = list(
                HfApi().get_repo_discussions(repo, author=CONVERTER, discussion_type="pull_request")
            )
    except Exception as error:  # the client's errors have no common base over its versions
        with contextlib.suppress(ClipkitError):
            return _snapshot(repo, WEIGHTS, revision=CONVERTED, local_files_only=True)
        raise _unreachable(repo, error) from error
    mine = [one for one in found if one.is_pull_request and one.author == CONVERTER]
    offers = [one.num for one in mine if one.status in {"open", "draft"}]
    if not offers:
        raise ClipkitError(
            f"{repo} must hold model.safetensors; the Hub has neither that nor a conversion of its own",
            "ask the Hub for one (its space safetensors/convert), or give a directory that holds model.safetensors",
        )
    folder = _snapshot(repo, WEIGHTS, revision=f"refs/pr/{max(offers)}")
    if not _weight_files(folder):
        raise ClipkitError(
            f"{repo} must hold model.safetensors; pull request {max(offers)} of {CONVERTER} has none"
        )
    with contextlib.suppress(OSError):  # a cache may be read-only
        (folder.parents[1] / "refs" / CONVERTED).write_text(folder.name)
    return folder


def _snapshot(repo: str, patterns: list[str], **options: Any) -> Path:
    """A repository's files of these patterns, in the local cache."""
    from huggingface_hub import snapshot_download

    try:
        with _quiet():
            return Path(snapshot_download(repo, allow_patterns=patterns, **options))
    except Exception as error:  # the client's errors have no common base over its versions
        raise _unreachable(repo, error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client's remarks off the terminal, and its progress bars off everything that is not one."""
    import huggingface_hub.utils

    client: Any = huggingface_hub.utils
    level, bars = client.logging.get_verbosity(), not client.are_progress_bars_disabled()
    client.logging.set_verbosity(logging.CRITICAL)
    if bars and not sys.stderr.isatty():
        client.disable_progress_bars()
    try:
        yield
    finally:
        client.logging.set_verbosity(level)
        if bars:
            client.enable_progress_bars()


def _unreachable(repo: str, error: Exception) -> ClipkitError:
    """What kept a repository's files from us, in one line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return ClipkitError(
            f"{repo} is gated on the Hugging Face Hub",
            "accept its terms there, then log in: hf auth login",
        )
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        near = unknown("model", repo, KNOWN).hint or ""
        return ClipkitError(
            f"no directory and no public Hugging Face repository is named {repo}", near
        )
    if constants.HF_HUB_OFFLINE:
        return ClipkitError(
            f"{repo} is not whole in the local cache, and HF_HUB_OFFLINE forbids the network",
            "unset HF_HUB_OFFLINE to fetch it, or give a local directory",
        )
    reason = (
        (str(error).strip() or type(error).__name__)
        .splitlines()[0]
        .removeprefix("Got: ")
        .rstrip(" .")
    )
    return ClipkitError(
        f"{repo} could not be fetched from the Hugging Face Hub: {reason}", OFFLINE_HINT
    )
