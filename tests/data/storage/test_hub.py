"""Push to and pull from the Hugging Face hub: its own client, and a server on loopback that answers like the hub."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

from data.checks.verify import verify_dataset
from data.signals.card import write_card
from data.signals.manifest import read_manifest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]


class Hub:
    """One dataset repository, `me/signals`: its files, and the paths that each commit touched.

    Attributes:
        files: contents by path.
        commits: for each commit, what it added (`+path`) and deleted (`-path`).
        refused: answers to the next commits that are not taken, in order.
    """

    def __init__(self):
        self.files, self.commits, self.refused = {}, [], []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(self):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
                code, content = hub.answer(path, body, self.headers.get("Range"))
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(code)
                if code == 404:
                    self.send_header(
                        "X-Error-Code", "EntryNotFound" if "/me/signals" in path else "RepoNotFound"
                    )
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_HEAD = answer

            def log_message(self, *_):
                pass

        return Handler

    def answer(self, path, body, wanted):
        """Status and content of an answer to the client."""
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        rest = path.partition("/datasets/me/signals")[2]
        if "/datasets/me/signals" not in path:
            return 404, {"error": "Repository not found"}
        kind, _, name = rest.strip("/").partition("/")
        name = name.removeprefix("main").strip("/")
        if kind == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            return 200, {
                "files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]
            }
        if kind == "commit":
            return self._commit([json.loads(line) for line in body.splitlines()])
        if kind == "tree":
            return 200, [
                {"type": "file", "oid": "0", "size": len(c), "path": p} for p, c in self.files.items()
            ]
        if kind == "resolve":
            if name not in self.files:
                return 404, b""
            first, last = wanted.removeprefix("bytes=").split("-") if wanted else (0, len(self.files[name]))
            return 206 if wanted else 200, self.files[name][int(first) : int(last) + 1]
        return 200, {"id": "me/signals", "sha": "0" * 40, "private": False, "tags": [], "siblings": []}

    def _commit(self, lines):
        if self.commits and self.refused:
            return self.refused.pop(0)
        touched = []
        for line in lines:
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                touched.append("+" + line["value"]["path"])
            if line["key"] == "deletedFile":
                del self.files[line["value"]["path"]]
                touched.append("-" + line["value"]["path"])
        self.commits.append(touched)
        url = f"{self.url}/datasets/me/signals/commit/{'0' * 40}"
        return 200, {"commitOid": "0" * 40, "commitUrl": url, "success": True, "hookOutput": ""}


@pytest.fixture
def hub():
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever)
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


@pytest.fixture
def run(hub):
    """Runs a `signals` command that takes this hub for the real one; returns its exit code and all it says."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_token"}
    environment["NO_PROXY"] = "127.0.0.1"

    def run(*arguments):
        command = [sys.executable, "cli.py", "signals", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_push_to_the_hub_is_few_commits_with_the_card_and_the_manifest_last(
    tmp_path, make_dataset, hub, run
):
    make_dataset(tmp_path / "signals")
    write_card(tmp_path / "signals", read_manifest(tmp_path / "signals"))
    # Too many commits in an hour, of which the hub's own client tries again; and what it does not try again.
    hub.refused = [(429, {"error": "rate limit"}), (403, {"error": "you may not write here"})]
    push = ("push", "--signals", tmp_path / "signals", "--address", "hf://datasets/me/signals")
    code, said = run(*push)
    assert code == 1
    *_, error = said.splitlines()
    assert error.startswith("error: hf://datasets/me/signals/shard-00000.parquet: 403")
    assert error.endswith("you may not write here; fix this and rerun the command")
    assert "manifest.json" not in hub.files
    code, said = run(*push)
    assert (code, said.splitlines()[0]) == (0, "hf://datasets/me/signals: 30 responses, complete")
    assert hub.commits == [
        ["+manifest.json.incoming"],
        ["+shard-00000.parquet", "+shard-00001.parquet", "+shard-00002.parquet"],
        ["+README.md"],
        ["+manifest.json"],
        ["-manifest.json.incoming"],
    ]
    code, said = run("pull", "--address", "hf://datasets/me/signals", "--out", tmp_path / "copy")
    assert code == 0, said
    assert verify_dataset(tmp_path / "copy") == []
    for path in (tmp_path / "signals").iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()


def test_a_repository_that_is_not_there_is_one_error(tmp_path, make_dataset, run):
    make_dataset(tmp_path / "signals")
    code, said = run("push", "--signals", tmp_path / "signals", "--address", "hf://datasets/me/mistyped")
    assert code == 1
    assert said.startswith("error: hf://datasets/me/mistyped/")
    assert len(said.splitlines()) == 1
