"""models_hub: names -> files, against a small Hub of our own on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from clipkit.models import hub as models_hub

CONFIG, OPEN_CLIP, PICKLE = b'{"model_type": "clip"}', b'{"model_cfg": {}}', b"not to be opened"
FIND = """
import json, sys
from clipkit.models import hub as models_hub
from clipkit.errors import ClipkitError
try:
    files = models_hub.find(sys.argv[1], weights=len(sys.argv) < 3)
    held = sorted(path.name for path in files.folder.iterdir())
    print(json.dumps({"name": files.name, "digest": files.digest(), "weights": len(files.weights), "held": held}))
except ClipkitError as error:
    print(json.dumps({"message": error.message, "hint": error.hint}))
"""


class Hub:
    """Repositories as ``{(repo, revision): {file: bytes}}``, and their pull requests, served as the Hub does."""

    def __init__(self) -> None:
        self.trees: dict[tuple[str, str], dict[str, bytes]] = {}
        self.offers: dict[str, list[dict[str, Any]]] = {}
        self.fetched: list[str] = []

    def offer(self, repo: str, num: int, author: str, status: str = "open", **files: bytes) -> None:
        """A pull request; of a file's name the last _ stands for a dot."""
        self.trees[repo, f"refs/pr/{num}"] = {
            ".".join(name.rsplit("_", 1)): content for name, content in files.items()
        }
        fact = {
            "title": "Adding `safetensors` variant of this model",
            "num": num,
            "author": {"name": author},
        }
        fact |= {
            "status": status,
            "isPullRequest": True,
            "createdAt": "2023-03-01T00:00:00.000Z",
            "repo": {"name": repo, "type": "model"},
        }
        self.offers.setdefault(repo, []).append(fact)

    def commit(self, repo: str, revision: str) -> str:
        tree = self.trees[repo, revision]
        return hashlib.sha1(repr((repo, revision, sorted(tree.items()))).encode()).hexdigest()

    def tree(self, repo: str, revision: str) -> dict[str, bytes] | None:
        for (owner, name), tree in self.trees.items():
            if owner == repo and revision in (name, self.commit(owner, name)):
                return tree
        return None

    def answer(self, path: str, query: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a GET."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            repo, what = "/".join(parts[2:4]), parts[4] if len(parts) > 4 else "revision"
            if what == "discussions":
                start = (
                    self.offers.get(repo, []) if parse_qs(query).get("p", ["0"]) == ["0"] else []
                )
                return (
                    200,
                    json.dumps({"discussions": start, "count": len(start), "start": 0}).encode(),
                    {},
                )
            revision = "/".join(parts[5:]) or "main"
            tree = self.tree(repo, revision)
            if tree is None:
                return (
                    401,
                    b"{}",
                    {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
                )
            if what == "tree":
                rows = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in tree.items()
                ]
                return 200, json.dumps(rows).encode(), {}
            siblings = [{"rfilename": name} for name in tree]
            return (
                200,
                json.dumps(
                    {"id": repo, "sha": self.commit_of(repo, tree), "siblings": siblings}
                ).encode(),
                {},
            )
        repo, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        tree = self.tree(repo, revision)
        if tree is None or file not in tree:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        self.fetched.append(file)
        etag = f'"{hashlib.sha1(tree[file]).hexdigest()}"'
        return 200, tree[file], {"ETag": etag, "X-Repo-Commit": self.commit_of(repo, tree)}

    def commit_of(self, repo: str, tree: dict[str, bytes]) -> str:
        return next(
            self.commit(*key)
            for key, value in self.trees.items()
            if key[0] == repo and value is tree
        )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub on this machine, and an empty cache; only for processes started from here."""
    ours = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            status, body, headers = ours.answer(url.path, url.query)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in (
        "HF_HUB_OFFLINE",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "TRANSFORMERS_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)
    yield ours
    server.shutdown()
    server.server_close()


def find(name: str, *options: str, **environment: str) -> dict[str, Any]:
    """What models_hub.find says in a process of its own; it must print nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", FIND, name, *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    assert "\n" not in answer.get("message", "")
    return answer


def digest(*contents: bytes) -> str:
    return "sha256:" + hashlib.sha256(b"".join(contents)).hexdigest()


def test_only_what_is_needed_is_fetched(hub: Hub) -> None:
    hub.trees["org/clip", "main"] = {
        "config.json": CONFIG,
        "merges.txt": b"a b",
        "model.safetensors": b"weights",
        "pytorch_model.bin": PICKLE,
        "open_clip_model.safetensors": b"the same again",
        "modeling.py": b"raise SystemExit",
    }
    assert find("org/clip", "no weights")["held"] == ["config.json", "merges.txt"]
    found = find("org/clip")
    assert found["name"] == "org/clip"
    assert found["digest"] == digest(b"weights")
    assert found["held"] == ["config.json", "merges.txt", "model.safetensors"]
    assert find("hf-hub:org/clip") == found
    assert not {"pytorch_model.bin", "modeling.py", "open_clip_model.safetensors"} & set(
        hub.fetched
    )
    assert find("org/clip", HF_HUB_OFFLINE="1") == found
    assert find("org/clip", HF_ENDPOINT="http://127.0.0.1:9") == found


def test_the_aliases_lead_to_repositories(hub: Hub) -> None:
    hub.trees[models_hub.DEFAULT, "main"] = {"config.json": CONFIG, "model.safetensors": b"weights"}
    for alias in ("ViT-B/32", "ViT-B-32", "ViT-B-32/openai", models_hub.DEFAULT):
        assert find(alias)["name"] == "openai/clip-vit-base-patch32"


def test_weights_in_parts(hub: Hub) -> None:
    parts = {f"model-0000{i}-of-00002.safetensors": b"part %d" % i for i in (1, 2)}
    index = json.dumps({"weight_map": {f"tensor {part}": part for part in parts}}).encode()
    hub.trees["org/clip", "main"] = {
        "config.json": CONFIG,
        "model.safetensors.index.json": index,
        **parts,
    }
    found = find("org/clip")
    assert (found["weights"], found["digest"]) == (2, digest(b"part 1", b"part 2"))


def test_the_bots_newest_conversion_is_taken(hub: Hub) -> None:
    hub.trees["org/clip", "main"] = {"config.json": CONFIG, "pytorch_model.bin": PICKLE}
    hub.offer("org/clip", 3, "SFconvertbot", model_safetensors=b"older")
    hub.offer(
        "org/clip",
        8,
        "SFconvertbot",
        model_safetensors=b"newer",
        config_json=b"{}",
        pytorch_model_bin=PICKLE,
    )
    hub.offer("org/clip", 9, "mallory", model_safetensors=b"not the bot's")
    hub.offer("org/clip", 10, "SFconvertbot", status="closed", model_safetensors=b"withdrawn")
    found = find("org/clip")
    assert found["digest"] == digest(b"newer")
    assert found["held"] == ["config.json"]  # of main: the configuration is not the pull request's
    assert set(hub.fetched) == {"config.json", "model.safetensors"}
    hub.offers.clear()
    assert find("org/clip", HF_HUB_OFFLINE="1") == found
    assert find("org/clip", HF_ENDPOINT="http://127.0.0.1:9") == found


@pytest.mark.parametrize("author", [None, "mallory", "SFconvertbot2", "sfconvertbot"])
def test_pickles_alone_are_refused(hub: Hub, author: str | None) -> None:
    hub.trees["org/clip", "main"] = {"config.json": CONFIG, "pytorch_model.bin": PICKLE}
    if author:
        hub.offer("org/clip", 4, author, model_safetensors=b"not the bot's")
    answer = find("org/clip")
    assert answer["message"].startswith(
        "org/clip must hold model.safetensors; the Hub has neither that nor a conversion"
    )
    assert "safetensors/convert" in answer["hint"]
    assert "pytorch_model.bin" not in hub.fetched
    assert "model.safetensors" not in hub.fetched


def test_an_empty_conversion(hub: Hub) -> None:
    hub.trees["org/clip", "main"] = {"config.json": CONFIG, "pytorch_model.bin": PICKLE}
    hub.offer("org/clip", 4, "SFconvertbot", pytorch_model_bin=PICKLE)
    assert find("org/clip")["message"].endswith("pull request 4 of SFconvertbot has none")


def test_open_clip_repositories(hub: Hub) -> None:
    hub.trees["org/open", "main"] = {
        "open_clip_config.json": OPEN_CLIP,
        "open_clip_model.safetensors": b"weights",
    }
    answer = find("hf-hub:org/open")
    assert (
        answer["message"]
        == "org/open must be in Hugging Face form; it holds OpenCLIP weights, which are not supported yet"
    )


def test_repositories_that_are_not_there(hub: Hub) -> None:
    answer = find("openai/clip-vit-base-patch23")
    assert (
        answer["message"]
        == "no directory and no public Hugging Face repository is named openai/clip-vit-base-patch23"
    )
    assert answer["hint"] == "did you mean openai/clip-vit-base-patch32?"


def test_without_a_network(hub: Hub) -> None:
    answer = find("org/clip", HF_ENDPOINT="http://127.0.0.1:9")
    assert answer["message"].startswith("org/clip could not be fetched from the Hugging Face Hub: ")
    assert "HF_HUB_OFFLINE" in answer["hint"]
    answer = find("org/clip", HF_HUB_OFFLINE="1")
    assert (
        answer["message"]
        == "org/clip is not whole in the local cache, and HF_HUB_OFFLINE forbids the network"
    )


def test_the_weights_of_a_half_fetched_model_offline(hub: Hub) -> None:
    hub.trees["org/clip", "main"] = {"config.json": CONFIG, "model.safetensors": b"weights"}
    find("org/clip", "no weights")
    assert find("org/clip", "no weights", HF_HUB_OFFLINE="1")["held"] == ["config.json"]
    assert "is not whole in the local cache" in find("org/clip", HF_HUB_OFFLINE="1")["message"]


def test_a_directory_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / "clip"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    for name in ("org/clip", str(folder)):
        found = models_hub.find(name)
        assert (found.name, found.digest()) == (name, digest(b"weights"))
