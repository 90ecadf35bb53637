"""One step of the benchmark: a public function of adpa, run once, with its command line and its cost written down."""

import dataclasses
import json
import logging
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.options.command_line import command_line

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Steps:
    """Runs the functions behind the commands in this process, which saves some ten seconds of imports each.

    Attributes:
        folder: gets `commands.sh`, the same steps to type by hand, and `seconds.jsonl`.
    """

    folder: Path

    def run(self, command: str, function: Callable[[Any], object], options: Any, finished: Path) -> None:
        """Run a step, unless it is finished; one that was interrupted continues.

        Args:
            command: what `adpa` calls it.
            function: what the command calls.
            options: the command's.
            finished: a file that is there when the step is.
        """
        if finished.exists():
            return
        with (self.folder / "commands.sh").open("a", encoding="utf-8") as file:
            file.write(command_line(command, options) + "\n")
        started, cpu = time.monotonic(), _cpu_seconds()
        logger.info("%s %s", command, finished.parent.name)
        function(options)
        line = {
            "command": command,
            "out": finished.parent.name,
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(_cpu_seconds() - cpu, 1),
        }
        with (self.folder / "seconds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"  {line}", flush=True)


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
