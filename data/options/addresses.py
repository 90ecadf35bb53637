"""Objects of a user's own code by their address, `module:NAME`: methods, judges."""

import importlib
import importlib.util
import os
import re
import sys
from importlib.machinery import ModuleSpec
from typing import Any

from data.errors import ConfigurationError

# What may give a module names that its source does not have.
_NAMES_FROM_ELSEWHERE = re.compile(r"import \*|def __getattr__|globals\(\)")


def check_address(address: str, option: str) -> None:
    """Check that an object is there, by its module's source: nothing but the packages around that is imported.

    Args:
        address: `module:NAME`; the module may be a file in the current folder.
        option: the option that named it, for messages.
    Raises:
        ConfigurationError: for another form, a module that Python does not find, or a source without the name.
    """
    module, name = _parts(address, option)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise _unusable(address, option, error) from error
    if spec is None:
        raise _unusable(address, option, f"No module named {module!r}")
    source = _source(spec)
    if (
        source
        and not re.search(rf"\b{re.escape(name)}\b", source)
        and not _NAMES_FROM_ELSEWHERE.search(source)
    ):
        raise _unusable(address, option, f"module {module!r} has no {name!r}")


def load_address(address: str, option: str) -> Any:
    """Import a module and take an object from it.

    Args:
        address: see `check_address`.
        option: likewise.
    Raises:
        ConfigurationError: for an address that leads to nothing.
    """
    module, name = _parts(address, option)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise _unusable(address, option, error) from error


def _parts(address: str, option: str) -> tuple[str, str]:
    module, _, name = address.partition(":")
    if not module or not name or module.startswith("."):
        raise ConfigurationError(f"{option}: {address!r} is not MODULE:NAME, such as my_module:my_function")
    # A console script does not look into the current folder, where such a file usually is.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    return module, name


def _source(spec: ModuleSpec) -> str | None:
    get_source = getattr(spec.loader, "get_source", None)
    try:
        return get_source(spec.name) if get_source is not None else None
    except ImportError:  # importing it will say what is wrong
        return None


def _unusable(address: str, option: str, reason: object) -> ConfigurationError:
    return ConfigurationError(
        f"{option}: {address} cannot be imported: {reason}; name a module that Python finds from here"
    )
