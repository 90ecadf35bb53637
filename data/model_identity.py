"""A model by its name: its folder here or a download from the hub, its revision, and a hash of its weights."""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError
from data.files import sha256_file

#: The files of which a model's or an adapter's folder holds one.
CONFIG_NAMES = ("config.json", "adapter_config.json")

_LOG_IN = "log in: `hf auth login`, or a token in HF_TOKEN"


_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")

# The same weights in the formats of libraries that are not used here: Llama's own, TensorFlow, Flax, ONNX, Rust.
_FOREIGN_WEIGHTS = ("original/*", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ot")

# Of a model that is no adapter. A trainer's checkpoint has further .bin and .pt files, of its optimizer.
_WHOLE_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")

# Endings of the names of architectures that give no next-token probabilities.
_OTHER_HEADS = (
    "ForMaskedLM",
    "ForMultipleChoice",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
    "RewardModel",
)

_HASHED_AT_ONCE = 8

_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


def is_local_name(name: str) -> bool:
    """Whether a model's name can only be a folder here: a hub name is `owner/name`."""
    is_nested = os.sep in name.rstrip(os.sep)
    return is_nested and (name.startswith((".", "/", "~")) or name.count("/") != 1)


def missing_folder(name: str, option: str) -> ConfigurationError:
    """What to raise where a model's folder is not there."""
    return ConfigurationError(f"{option}: {name}: no such folder")


def hub_folder(name: str, *, revision: str | None, option: str, **patterns: Any) -> Path:
    """The folder of a hub model in the hub's cache; what is not there yet is downloaded.

    Args:
        name: `owner/name`, or a name that is no folder here.
        revision: branch, tag or commit.
        option: the option that the name came from, for messages.
        patterns: which files, as `huggingface_hub.snapshot_download` takes them.
    Raises:
        ConfigurationError: for a name that the hub does not know or does not give, or where it cannot be reached.
    """
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415  (a quarter of a second, for hub names)
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, **patterns))
    except GatedRepoError as error:
        raise ConfigurationError(
            f"{option}: {name} is gated; accept its terms on its page on the hub, and {_LOG_IN}"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"{option}: {name!r} is neither a local folder nor a model that the hub shows you; check the name or, if "
            f"it is a private one, {_LOG_IN}"
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigurationError(
            f"{option}: {name} has no revision {revision!r} on the hub; name one of its branches, tags or commits"
        ) from error
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set"
        else:
            first = str(error).strip().splitlines()[0].removeprefix("Got: ")
            reason = f"the hub cannot be reached ({first})"
        raise ConfigurationError(
            f"{option}: {name!r} is no folder here and not in the hub's cache, and {reason}; give a local folder"
        ) from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"{option}: {name!r} is neither a local folder nor a model that the hub gives: {reason}"
        ) from error


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model that a result depends on.

    Attributes:
        source: as the user named it; the base name of a local folder, so that moving it changes nothing.
        revision: commit of a hub model; None for a local folder.
        weights_sha256: over names and contents of the weight files and the configuration; None where the
            weights are not there.
    """

    source: str
    revision: str | None
    weights_sha256: str | None

    def as_dict(self) -> dict[str, str | None]:
        """The identity as it goes into manifests."""
        return asdict(self)


def resolve_model(
    name: str, *, revision: str | None = None, option: str = "--model", need_weights: bool = True
) -> tuple[Path, ModelIdentity]:
    """Find a model's folder; a hub name is downloaded into the hub's cache unless it is there already.

    Args:
        name: a local checkpoint or adapter folder, or a hub name.
        revision: branch, tag or commit of a hub model.
        option: the option that the name came from, for messages.
        need_weights: whether the weights have to be there; without, a hub name brings the small files alone.
    Returns:
        The folder, and what identifies the model in it.
    Raises:
        ConfigurationError: for a folder that is not a model or cannot be read, or a name that cannot be fetched.
    """
    folder = Path(name)
    commit = None
    if folder.exists():
        if revision is not None:
            raise ConfigurationError(f"{option}: {name} is a local folder, it has no revision {revision!r}")
    elif is_local_name(name):
        raise missing_folder(name, option)
    else:
        unwanted = (
            *_FOREIGN_WEIGHTS,
            *(() if need_weights else (f"*{suffix}" for suffix in _WEIGHT_SUFFIXES)),
        )
        folder = hub_folder(name, revision=revision, option=option, ignore_patterns=list(unwanted))
        commit = folder.name
    check_model_folder(folder, option, name)
    weights = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHT_SUFFIXES)
    if not weights and need_weights:
        raise ConfigurationError(
            f"{option}: {name} holds no weights (*.safetensors); is its download or training unfinished?"
        )
    try:
        digest = _hash(folder, weights) if weights else None
    except OSError as error:
        raise ConfigurationError(f"{option}: {error.filename}: cannot be read: {error.strerror}") from error
    identity = ModelIdentity(name if commit else folder.resolve().name, commit, digest)
    return folder, identity


def check_model_folder(folder: Path, option: str, name: str | None = None) -> None:
    """Check that a folder looks like a model's or an adapter's.

    Args:
        folder: what is there.
        option: the option that it came from, for messages.
        name: as the user named it [the folder].
    Raises:
        ConfigurationError: for a file, GGUF weights, or a folder without a configuration.
    """
    name = name or str(folder)
    has_config = any((folder / config).is_file() for config in CONFIG_NAMES)
    if folder.suffix == ".gguf" or (folder.is_dir() and not has_config and any(folder.glob("*.gguf"))):
        raise ConfigurationError(
            f"{option}: {name}: GGUF is not read here; give the checkpoint that it was made from (a folder with "
            "config.json and *.safetensors)"
        )
    if not has_config:
        raise ConfigurationError(f"{option}: {name} is not a model folder: it has no config.json")


def refuse_adapter(folder: Path, option: str, adapter_option: str | None = None) -> None:
    """Refuse a folder with a LoRA adapter where a whole model is needed.

    Trainers write a config.json beside an adapter, too, so that its presence says nothing. transformers would load the
    adapter's base, from the hub where need be, and vLLM what it finds.

    Args:
        folder: the model's.
        option: the option that named it.
        adapter_option: the command's option for adapters on that model; None where it has none.
    Raises:
        ConfigurationError: with the adapter's own option, or how to merge it; or that a model is beside it.
    """
    if not (folder / "adapter_config.json").is_file():
        return
    if any(next(folder.glob(pattern), None) for pattern in _WHOLE_WEIGHTS):
        raise ConfigurationError(
            f"{option}: {folder} holds a whole model and a LoRA adapter (adapter_config.json), and libraries differ in "
            "which of them they load; move the adapter's files to a folder of their own"
        )
    try:
        base = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    of = f" for {base}" if base else ""
    if adapter_option is not None:
        raise ConfigurationError(
            f"{option}: {folder} is a LoRA adapter{of}, not a whole model; give its base as {option} and this folder "
            f"as {adapter_option}"
        )
    raise ConfigurationError(
        f"{option}: {folder} is a LoRA adapter{of}, not a whole model; merge it into its base first: "
        f"peft.AutoPeftModelForCausalLM.from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained(NEW), and "
        "give NEW with the base's tokenizer"
    )


def refuse_other_models(folder: Path, option: str) -> None:
    """Refuse a checkpoint that is no causal language model by its own configuration: a reward model, BERT, T5.

    Libraries load some of them all the same, with a head at random or with attention to later tokens.

    Args:
        folder: the model's.
        option: the option that the model came from.
    Raises:
        ConfigurationError: with what the configuration says that it is.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names, is_encoder_decoder = config.get("architectures") or [], config.get("is_encoder_decoder")
    except (OSError, ValueError, AttributeError):
        # Loading the model says what is wrong with the file.
        return
    if is_encoder_decoder or (names and all(str(name).endswith(_OTHER_HEADS) for name in names)):
        kind = " (encoder and decoder)" if is_encoder_decoder else ""
        raise ConfigurationError(
            f"{option}: {folder} is a {names[0] if names else 'model'}{kind} by its config.json, and a causal language "
            "model is needed, such as a ...ForCausalLM; give one"
        )


def unusable_tokenizer(folder: Path, option: str, error: Exception) -> ConfigurationError:
    """What to raise when a model's tokenizer cannot be loaded: whether it is missing or damaged, and what helps.

    Args:
        folder: the model's.
        option: the option that the model came from.
        error: the library's.
    """
    if not any(path.is_file() for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        return ConfigurationError(
            f"{option}: {folder} has no tokenizer; put its files beside the model (tokenizer.json, "
            "tokenizer_config.json)"
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigurationError(
        f"{option}: the tokenizer in {folder} cannot be loaded ({reason}); save it there again with save_pretrained"
    )


def _hash(folder: Path, weights: list[Path]) -> str:
    configs = [folder / config for config in CONFIG_NAMES if (folder / config).is_file()]
    paths = [*configs, *weights]
    # In parallel: disks read faster than one thread hashes, and a large model has 100 GB and more.
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        contents = list(pool.map(_content, paths))
    digest = hashlib.sha256()
    for path, content in zip(paths, contents, strict=True):
        digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    # The hub's cache names its blobs by their sha256; reading 140 GB again would tell nothing new.
    target = path.resolve().name
    return target if path.is_symlink() and _BLOB_NAME.fullmatch(target) else sha256_file(path)
