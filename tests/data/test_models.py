"""Which model a name means: identity of weights, and what the hub refuses."""

import hashlib
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from data.errors import ConfigurationError
from data.model_identity import resolve_model


def write_model(folder, weights=b"weights"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model-1.safetensors").write_bytes(weights)
    (folder / "model-2.safetensors").write_bytes(b"more")
    (folder / "notes.txt").write_text(folder.name)
    return folder


def test_the_identity_is_the_folders_name_and_a_hash_of_its_content(tmp_path):
    folder, identity = resolve_model(str(write_model(tmp_path / "here" / "teacher")))
    assert folder == tmp_path / "here" / "teacher"
    names = {"config.json": b"{}", "model-1.safetensors": b"weights", "model-2.safetensors": b"more"}
    lines = [f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in names.items()]
    assert identity.weights_sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert (identity.source, identity.revision) == ("teacher", None)
    _, elsewhere = resolve_model(str(write_model(tmp_path / "there" / "teacher")))
    assert elsewhere == identity
    _, other = resolve_model(str(write_model(tmp_path / "other" / "teacher", b"changed")))
    assert other.weights_sha256 != identity.weights_sha256


def test_weights_that_cannot_be_read_are_named(tmp_path):
    folder = write_model(tmp_path / "teacher")
    (folder / "model-3.safetensors").mkdir()
    with pytest.raises(
        ConfigurationError, match=r"--teacher: .*model-3\.safetensors: cannot be read: Is a dir"
    ):
        resolve_model(str(folder), option="--teacher")


def test_weights_in_the_hubs_cache_are_known_by_the_name_of_their_blob_and_not_read(tmp_path, monkeypatch):
    _, local = resolve_model(str(write_model(tmp_path / "teacher")))
    snapshot = write_model(tmp_path / "snapshots" / "abc123")
    for name in ("model-1.safetensors", "model-2.safetensors"):
        blob = tmp_path / hashlib.sha256((snapshot / name).read_bytes()).hexdigest()
        (snapshot / name).rename(blob)
        (snapshot / name).symlink_to(blob)
        blob.write_bytes(b"not read")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    _, hub = resolve_model("org/teacher", revision="main")
    assert (hub.source, hub.revision) == ("org/teacher", "abc123")
    assert hub.weights_sha256 == local.weights_sha256


def test_only_what_an_engine_loads_is_downloaded(monkeypatch, tmp_path):
    asked = []

    def download(name, *, revision, ignore_patterns):
        asked.append(set(ignore_patterns))
        return str(write_model(tmp_path / str(len(asked))))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    resolve_model("org/model")
    resolve_model("org/model", need_weights=False)
    assert {"original/*", "*.pth", "*.h5"} <= asked[0]
    assert not {"*.safetensors", "*.bin"} & asked[0]
    assert asked[1] == asked[0] | {"*.safetensors", "*.bin", "*.pt", "*.gguf"}


@pytest.mark.parametrize(("kind", "message"), [
    (GatedRepoError, "org/model is gated; accept its terms on its page on the hub, and log in: `hf auth login`"),
    (RepositoryNotFoundError, "'org/model' is neither a local folder nor a model that the hub shows you; .* log in"),
    (RevisionNotFoundError, "org/model has no revision 'v9' on the hub; name one of its branches"),
])  # fmt: skip
def test_what_the_hub_refuses_is_said_with_what_to_do(monkeypatch, kind, message):
    def refuse(*_, **__):
        raise kind(
            "401 Client Error. (Request ID: 1)\n\nmore", response=SimpleNamespace(headers={}, request=None)
        )

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ConfigurationError, match=f"^--teacher: {message}"):
        resolve_model("org/model", revision="v9", option="--teacher")


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(monkeypatch):
    def fail(*_, **__):
        raise LocalEntryNotFoundError(
            "Got: ConnectError: no route\nAn error happened while trying to locate\n"
        )

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ConfigurationError) as caught:
        resolve_model("org/model", option="--teacher")
    assert str(caught.value) == (
        "--teacher: 'org/model' is no folder here and not in the hub's cache, and the hub cannot be reached "
        "(ConnectError: no route); give a local folder"
    )
