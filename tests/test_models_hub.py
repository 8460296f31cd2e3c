"""models.hub: names -> files, against a small Hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from factories.server import serving
from factories.zoo import TIMM_VIT

from clipkit.models import hub as models_hub

CONFIG = b'{"model_type": "clip"}'
PICKLE = b"not to be opened"
WHOLE = {"config.json": CONFIG, "model.safetensors": b"weights"}
OPEN_CLIP = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"w"}
NOWHERE = "http://127.0.0.1:9"
FIND = """
import json, sys
from clipkit.base.errors import ClipkitError
from clipkit.models import hub
try:
    files = hub.find(sys.argv[1], weights=len(sys.argv) < 3)
except ClipkitError as error:
    print(json.dumps({"message": error.message, "hint": error.hint}))
else:
    names = sorted(path.name for path in files.folder.iterdir())
    shards = len(files.weights)
    digest = files.digest_weights()
    answer = {"name": files.name, "digest": digest, "shards": shards, "files": names}
    print(json.dumps(answer))
"""
pytestmark = pytest.mark.long  # every call is a process

Tree = dict[str, bytes]
Answer = tuple[int, bytes, dict[str, str]]


class Hub:
    """Repositories and the pull requests of org/clip, served as the Hugging Face Hub does."""

    def __init__(self):
        self.trees = {}  # by repository and revision
        self.requests = []  # as the Hub's JSON describes them
        self.fetched = []  # files that were downloaded

    def add(self, repo, files):
        self.trees[repo, "main"] = files

    def request(self, num, author, files, status="open"):
        """Open a pull request at org/clip."""
        self.trees["org/clip", f"refs/pr/{num}"] = files
        facts = {
            **{"title": "Adding `safetensors` variant of this model", "isPullRequest": True},
            **{"createdAt": "2023-03-01T00:00:00.000Z"},
            **{"repo": {"name": "org/clip", "type": "model"}},
        }
        self.requests.append({**facts, "num": num, "author": {"name": author}, "status": status})

    def find(self, repo, revision):
        """Return commit and files of a revision, which may itself be a commit."""
        for (owner, name), tree in self.trees.items():
            commit = sha1(repr((owner, name, sorted(tree.items()))).encode())
            if owner == repo and revision in (name, commit):
                return commit, tree
        return None

    def respond(self, request):
        """Send the headers of an answer, and return its parts."""
        status, body, headers = self.answer(urlsplit(request.path).path)
        request.send_headers(status, {**headers, "Content-Length": str(len(body))})
        return [body] if request.command == "GET" else []

    def answer(self, path):
        """Return status, body and headers of a GET of API/REPO/WHAT/REVISION or of a file."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] != ["api", "models"]:
            return self.file("/".join(parts[:2]), revision=parts[3], name="/".join(parts[4:]))
        repo, what, revision = "/".join(parts[2:4]), parts[4:5], "/".join(parts[5:])
        if what == ["discussions"]:
            count = len(self.requests)
            return as_json({"discussions": self.requests, "count": count, "start": 0})
        found = self.find(repo, revision or "main")
        if found is None:
            return 401, b"{}", {"X-Error-Code": "RepoNotFound"}
        commit, tree = found
        if what == ["tree"]:
            file = {"type": "file", "oid": "unused"}
            return as_json([{"path": name, "size": len(tree[name]), **file} for name in tree])
        return as_json({"id": repo, "sha": commit})

    def file(self, repo, revision, name):
        commit, tree = self.find(repo, revision) or ("", {})
        if name not in tree:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        self.fetched.append(name)
        return 200, tree[name], {"ETag": f'"{sha1(tree[name])}"', "X-Repo-Commit": commit}


def as_json(content):
    return 200, json.dumps(content).encode(), {}


def sha1(content):
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine and an empty cache, for processes that a test starts."""
    served = Hub()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with serving(tmp_path) as server:
        server.answer = served.respond
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield served


@pytest.fixture
def pickles_only(hub):
    """A Hub whose org/clip has its weights as a pickle only."""
    hub.add("org/clip", {"config.json": CONFIG, "pytorch_model.bin": PICKLE})
    return hub


def find(name, *options, **environment):
    """Call `models.hub.find` in a new process, which must write nothing to standard error."""
    line = [sys.executable, "-c", FIND, name, *options]
    env = {**os.environ, **environment}
    done = subprocess.run(line, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert "\n" not in answer.get("message", "")
    return answer


def digest(*contents):
    return "sha256:" + hashlib.sha256(b"".join(contents)).hexdigest()


def test_only_what_is_needed_is_fetched(hub):
    needed = ["config.json", "merges.txt", "model.safetensors", "processor_config.json"]
    others = ("pytorch_model.bin", "open_clip_model.safetensors", "modeling.py")
    hub.add("org/clip", {**dict.fromkeys((*needed, *others), b"{}"), **WHOLE})
    assert "model.safetensors" not in find("org/clip", "no weights")["files"]
    answer = find("org/clip")
    expected = {"name": "org/clip", "digest": digest(b"weights"), "shards": 1, "files": needed}
    assert answer == find("hf-hub:org/clip") == expected
    assert set(hub.fetched) == set(needed)
    assert find("org/clip", HF_ENDPOINT=NOWHERE) == answer


@pytest.mark.exhaustive
def test_a_model_of_timm_is_found_by_its_short_name(hub):
    name = f"timm/{TIMM_VIT[0]}"
    config = b'{"architecture": "vit_tiny_patch16_224"}'
    hub.add(name, {**WHOLE, "config.json": config, "pytorch_model.bin": PICKLE})
    short = name.replace("/", ":")
    assert find(short, "no weights")["files"] == ["config.json"]
    assert find(short) == find(f"hf-hub:{name}")
    assert find(short)["name"] == name
    assert set(hub.fetched) == {"config.json", "model.safetensors"}


@pytest.mark.exhaustive
def test_no_weights_of_an_unknown_kind_are_fetched(hub):
    hub.add("org/clip", {**WHOLE, "config.json": b'{"model_type": "bert"}'})
    assert "got model_type 'bert'" in find("org/clip")["message"]
    assert set(hub.fetched) == {"config.json"}


@pytest.mark.exhaustive
def test_weights_may_be_split_over_files(hub):
    shards = {f"model-0000{i}-of-00002.safetensors": b"part %d" % i for i in (1, 2)}
    index = json.dumps({"weight_map": {f"tensor {shard}": shard for shard in shards}}).encode()
    hub.add("org/clip", {"config.json": CONFIG, "model.safetensors.index.json": index, **shards})
    answer = find("org/clip")
    assert (answer["shards"], answer["digest"]) == (2, digest(b"part 1", b"part 2"))


@pytest.mark.exhaustive
def test_the_bots_newest_conversion_is_taken(pickles_only):
    hub = pickles_only
    newer = {"model.safetensors": b"newer", "config.json": b"{}", "pytorch_model.bin": PICKLE}
    hub.request(3, "SFconvertbot", {"model.safetensors": b"older"})
    hub.request(8, "SFconvertbot", newer)
    hub.request(9, "mallory", {"model.safetensors": b"not the bot's"})
    hub.request(10, "SFconvertbot", {"model.safetensors": b"withdrawn"}, status="closed")
    answer = find("org/clip")
    assert answer["digest"] == digest(b"newer")
    assert answer["files"] == ["config.json"]  # the one of main, not of the pull request
    assert set(hub.fetched) == {"config.json", "model.safetensors"}
    hub.requests.clear()
    assert find("org/clip", HF_HUB_OFFLINE="1") == answer


@pytest.mark.parametrize("author", [None, "mallory", "SFconvertbot2", "sfconvertbot"])
def test_pickles_alone_are_refused(pickles_only, author):
    if author:
        pickles_only.request(4, author, {"model.safetensors": b"not the bot's"})
    answer = find("org/clip")
    assert "but the Hub has neither that nor a conversion" in answer["message"]
    assert "safetensors/convert" in answer["hint"]
    assert set(pickles_only.fetched) == {"config.json"}


@pytest.mark.exhaustive
def test_an_empty_conversion(pickles_only):
    pickles_only.request(4, "SFconvertbot", {"pytorch_model.bin": PICKLE})
    assert "in pull request 4 of SFconvertbot, got none" in find("org/clip")["message"]


@pytest.mark.exhaustive
def test_only_the_weights_of_the_form_that_is_read_are_fetched(hub):
    hub.add("org/open", OPEN_CLIP)
    hub.add("org/both", {**OPEN_CLIP, **WHOLE})
    for name, weights, other in (
        ("hf-hub:org/open", b"w", "model.safetensors"),
        ("org/both", b"weights", "open_clip_model.safetensors"),
        ("open_clip:org/both", b"w", "model.safetensors"),
    ):
        hub.fetched.clear()
        found = find(name)
        assert found["digest"] == digest(weights)
        assert found["name"] == name.removeprefix("hf-hub:")
        assert other not in hub.fetched


@pytest.mark.exhaustive
def test_short_names_lead_to_repositories(hub):
    laion, coca = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "laion/CoCa-ViT-B-32-laion2B-s13B-b90k"
    openai = "timm/vit_base_patch32_clip_224.openai"
    for repo in (laion, coca, openai, models_hub.DEFAULT):
        hub.add(repo, {**OPEN_CLIP, **WHOLE})
    for name, found, weights in (
        ("ViT-B-32/laion2b_s34b_b79k", laion, b"weights"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", f"open_clip:{laion}", b"w"),
        ("coca_ViT-B-32/laion2b_s13b_b90k", f"open_clip:{coca}", b"w"),
        ("open_clip:ViT-B-32/openai", f"open_clip:{openai}", b"w"),
        ("ViT-B/32", models_hub.DEFAULT, b"weights"),
    ):
        answer = find(name)
        assert (answer["name"], answer["digest"]) == (found, digest(weights))


@pytest.mark.exhaustive
def test_repositories_that_do_not_exist(hub):
    name = "openai/clip-vit-base-patch23"
    assert find(name) == {
        "message": f"no folder and no public Hugging Face repository is named {name}",
        "hint": "did you mean openai/clip-vit-base-patch32?",
    }


OFFLINE = "cannot fetch org/clip: the local cache lacks files of it, and HF_HUB_OFFLINE is set"


@pytest.mark.exhaustive
def test_models_that_are_not_here_need_a_network(hub):
    answer = find("org/clip", HF_ENDPOINT=NOWHERE)
    assert answer["message"].startswith("cannot fetch org/clip from the Hugging Face Hub: ")
    assert "HF_HUB_OFFLINE" in answer["hint"]
    assert find("org/clip", HF_HUB_OFFLINE="1")["message"] == OFFLINE


@pytest.mark.exhaustive
def test_the_weights_of_a_half_fetched_model_need_a_network(hub):
    hub.add("org/clip", WHOLE)
    find("org/clip", "no weights")
    assert find("org/clip", "no weights", HF_HUB_OFFLINE="1")["files"] == ["config.json"]
    assert find("org/clip", HF_HUB_OFFLINE="1")["message"] == OFFLINE


def test_a_directory_goes_before_the_hub(tmp_path, monkeypatch):
    folder = tmp_path / "org" / "clip"
    folder.mkdir(parents=True)
    for name, content in WHOLE.items():
        (folder / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for name in ("org/clip", str(folder)):
        files = models_hub.find(name)
        assert (files.name, files.digest_weights()) == (name, digest(b"weights"))
