"""Models by name, from a stand-in for the hub: a local HTTP server that speaks as much of it as a download needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download

from models import hub
from models.errors import ModelRefused
from models.load import load
from models.step import LoadSpec
from tests.models.drive import quiet

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "sagrada/tiny"


class Hub(ThreadingHTTPServer):
    """One repository with one commit, on branch `main` and tag `v1`."""

    daemon_threads = True

    def __init__(self, folder: Path, token: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.token = token
        """What a client must present; empty: anybody may read."""
        self.served: list[str] = []
        """The files whose bytes were sent."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        """Nothing: a test is quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.fail(401, "GatedRepo")
        elif parts[:2] == ["api", "models"]:
            self.api(parts[2:])
        elif (
            parts[2:3] == ["resolve"] and parts[3] in ("main", "v1", COMMIT) and parts[4] in self.server.files
        ):
            self.file(parts[4])
        else:
            self.fail(404, "EntryNotFound")

    def api(self, parts: list[str]) -> None:
        name, rest = "/".join(parts[:2]), parts[2:]
        if name != NAME:
            self.fail(404, "RepoNotFound")
        elif rest[:1] == ["tree"]:
            self.json(
                [
                    {"type": "file", "path": n, "size": len(b), "oid": etag(b)}
                    for n, b in self.server.files.items()
                ]
            )
        elif rest in ([], *(["revision", known] for known in ("main", "v1", COMMIT))):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.json({"id": NAME, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        else:
            self.fail(404, "RevisionNotFound")

    def file(self, name: str) -> None:
        body = self.server.files[name]
        if self.command == "GET":
            self.server.served.append(name)
        self.answer(200, body, {"ETag": f'"{etag(body)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def fail(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def etag(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture
def serve(model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hub]]:
    """Starts a hub with a folder (by default a tiny Llama), and has huggingface_hub ask it instead of its own."""
    running: list[Hub] = []

    def start(folder: Path | None = None, token: str = "") -> Hub:
        server = Hub(folder or model_of("llama"), token)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):  # older versions keep a copy
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def spec(cache: Path, **fields: Any) -> LoadSpec:
    small: dict[str, Any] = {"model_id": NAME, "cache_dir": str(cache), "slots": 1}
    return LoadSpec(**(small | fields))


def test_a_model_is_fetched_once_and_then_served_from_the_cache(
    serve: Callable[..., Hub], tmp_path: Path
) -> None:
    server = serve()
    stages: list[tuple[str, int, int]] = []
    info = load(spec(tmp_path), lambda *progress: stages.append(progress)).info
    assert info.revision == COMMIT
    assert {path.name for path in info.folder.iterdir()} == set(server.files)
    assert any(stage in ("download", "files") and done == total > 0 for stage, done, total in stages)
    fetched = len(server.served)
    assert fetched == len(server.files)
    hub.resolve(spec(tmp_path), quiet)
    hub.resolve(spec(tmp_path, offline=True), quiet)
    assert len(server.served) == fetched


def test_a_revision_is_a_branch_a_tag_or_a_commit(serve: Callable[..., Hub], tmp_path: Path) -> None:
    serve()
    for revision in ("main", "v1", COMMIT):
        assert hub.resolve(spec(tmp_path, revision=revision), quiet).revision == COMMIT
    with pytest.raises(ModelRefused, match="'sagrada/tiny' cannot be fetched: it has no such revision"):
        hub.resolve(spec(tmp_path, revision="no-such-branch"), quiet)


def test_a_gated_model_needs_its_token(serve: Callable[..., Hub], tmp_path: Path) -> None:
    serve(token="hf_secret")
    with pytest.raises(ModelRefused, match="it is gated; accept its conditions on the hub and set HF_TOKEN"):
        hub.resolve(spec(tmp_path), quiet)
    assert hub.resolve(spec(tmp_path, token="hf_secret"), quiet).revision == COMMIT


def test_a_repository_without_safetensors_is_refused_before_its_weights_are_fetched(
    serve: Callable[..., Hub], tmp_path: Path
) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "config.json").write_text("{}")
    (tmp_path / "repo" / "pytorch_model.bin").write_bytes(b"could run code")
    server = serve(tmp_path / "repo")
    with pytest.raises(ModelRefused, match="no weights in safetensors"):
        hub.resolve(spec(tmp_path), quiet)
    assert server.served == []


def test_what_is_no_model_is_left_where_it_is(
    serve: Callable[..., Hub], tmp_path: Path, model_of: Callable[[str], Path]
) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    for path in model_of("llama").iterdir():
        (repo / path.name).write_bytes(path.read_bytes())
    (repo / "pytorch_model.bin").write_bytes(b"could run code")
    (repo / "consolidated.safetensors").write_bytes(b"the same weights again")
    server = serve(repo)
    hub.resolve(spec(tmp_path), quiet)
    assert {"pytorch_model.bin", "consolidated.safetensors"}.isdisjoint(server.served)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"offline": True}, "it is not in the cache, and offline is set"),
        ({"model_id": "sagrada/unknown"}, "'sagrada/unknown' cannot be fetched: the hub knows no such model"),
        ({"model_id": "not a name"}, "'not a name' cannot be fetched"),
    ],
)
def test_a_name_that_leads_nowhere(
    fields: dict[str, Any], said: str, serve: Callable[..., Hub], tmp_path: Path
) -> None:
    serve()
    with pytest.raises(ModelRefused) as caught:
        hub.resolve(spec(tmp_path, **fields), quiet)
    assert said in str(caught.value)
    print("XX", caught.value)


def test_a_hub_that_cannot_be_reached(serve: Callable[..., Hub], tmp_path: Path) -> None:
    """What is in the cache is served; what is not, is refused."""
    server = serve()
    files = hub.resolve(spec(tmp_path), quiet)
    server.shutdown()
    server.server_close()
    assert hub.resolve(spec(tmp_path), quiet) == files
    with pytest.raises(ModelRefused, match="it is not in the cache, and the hub cannot be reached"):
        hub.resolve(spec(tmp_path / "empty"), quiet)


def test_endpoint_and_token_come_from_the_environment_as_everywhere(
    serve: Callable[..., Hub], tmp_path: Path
) -> None:
    """In a process of its own: huggingface_hub reads HF_ENDPOINT and HF_TOKEN once, when it is imported."""
    server = serve(token="hf_secret")
    code = (
        "import sys; from models.hub import resolve; from models.step import LoadSpec;"
        "print(resolve(LoadSpec(model_id=sys.argv[1], cache_dir=sys.argv[2]), lambda *progress: None).revision)"
    )
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_secret", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", code, NAME, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, COMMIT), done.stderr
