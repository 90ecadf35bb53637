"""What a model's name can mean, a folder here or a model on the hub, and what is said where it means nothing."""

import os
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError

__all__ = ["CONFIG_NAMES", "hub_folder", "is_local_name", "missing_folder"]

#: The files of which a model's or an adapter's folder holds one.
CONFIG_NAMES = ("config.json", "adapter_config.json")

_LOG_IN = "log in: `hf auth login`, or a token in HF_TOKEN"


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
