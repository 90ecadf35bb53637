"""Connects to or starts a Ray cluster, and the resources of a worker. The only file that imports Ray.

Process-wide effects: Ray is configured through environment variables, which stay set for the life of this process
(`RAY_USAGE_STATS_ENABLED`, and for a private cluster `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER`, `RAY_AUTH_MODE` and
`RAY_AUTH_TOKEN`; none replaces a value that the user has set), and Ray's logger is set to errors. What `ray.init`
changes of signal handling is changed back.
"""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError
from teacher_scoring.workers.work import EngineRequest

# Items and results are small; what Ray takes by default is a third of the memory.
_OBJECT_STORE_BYTES = 256 << 20

_SESSION_PREFIX = "adpa-ray-"


@contextlib.contextmanager
def connected_ray(request: EngineRequest) -> Iterator[Any]:
    """The `ray` module, connected; a connection that the program has made before is used and left as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    is_private = request.ray_address is None
    if is_private:
        _prepare_private_cluster()
    import ray  # noqa: PLC0415  (an extra, and it reads the environment when it is imported)

    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    with contextlib.ExitStack() as at_end:
        where: dict[str, Any] = {"address": request.ray_address}
        if is_private:
            where = {
                "address": "local",
                "num_cpus": max(os.cpu_count() or 1, request.workers),
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": str(at_end.enter_context(session_folder())),
            }
        at_end.callback(ray.shutdown)
        with _same_sigterm():
            try:
                # What workers write to their terminals (a traceback, not progress) is shown on this one.
                ray.init(**where, configure_logging=False, log_to_driver=True)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigurationError(
                    f"ray_address: no Ray cluster to work on at {request.ray_address or 'this machine'}: "
                    f"{str(error).strip().splitlines()[0]}; one with token authentication wants RAY_AUTH_MODE=token"
                ) from error
        yield ray


def _prepare_private_cluster() -> None:
    """Make a cluster of this machine alone reachable from this machine alone, and by this user alone."""
    # Whatever its name says, this is the one switch that binds every one of Ray's ports to the loopback interface.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Otherwise Ray keeps one in the user's home.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextlib.contextmanager
def session_folder() -> Iterator[Path]:
    """A folder for Ray's sockets and logs that is removed afterwards, as are those that killed runs have left."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > 30:
        # Names of sockets may have 107 characters; Ray's own part takes 70 of them.
        parent = Path("/tmp")
    for leftover in parent.glob(f"{_SESSION_PREFIX}*"):
        owner = leftover.name.removeprefix(_SESSION_PREFIX).split("-")[0]
        if owner.isdecimal() and not _is_running(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_SESSION_PREFIX}{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    """Keep what this program does on SIGTERM; `ray.init` installs its own handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def worker_resources(ray: Any, request: EngineRequest) -> dict[str, float]:
    """What Ray has to reserve for a worker, as an actor's options.

    GPUs where the cluster has any, all of a worker's on one machine; otherwise its share of the CPUs.

    Raises:
        ConfigurationError: more GPUs for a worker than any machine has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    if not most_gpus:
        cpus = [node.get("CPU", 0) for node in nodes]
        return {"num_cpus": max(1, min(sum(cpus) // request.workers, max(cpus)))}
    needed = request.settings.tensor_parallel_size * request.settings.pipeline_parallel_size
    if needed > most_gpus:
        raise ConfigurationError(
            f"tensor_parallel_size times pipeline_parallel_size: {needed} GPUs for each worker, but no machine of "
            f"the cluster has more than {most_gpus:g}"
        )
    return {"num_cpus": 1, "num_gpus": needed}
