"""Stops a command just before it renames a file, after a given number of renames; for the tests of resuming.

Python runs this at its start wherever this folder is on PYTHONPATH: in the command, in its engine's process, in Ray's
workers. Whichever of them is about to name the file halts the command (SIGSTOP), once.
"""

import fnmatch
import glob
import os
import signal
import sys

_COMMAND = int(os.environ.setdefault("ADPA_HALTED_COMMAND", str(os.getpid())))
_FILES, _AFTER, _MARK = (os.environ[f"ADPA_HALT_{name}"] for name in ("FILES", "AFTER", "MARK"))

if os.getpid() == _COMMAND:
    # In the background of a script Ctrl-C is ignored, and children inherit that; the command must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _halt(event, arguments):
    if event != "os.rename" or not fnmatch.fnmatch(os.fspath(arguments[1]), _FILES):
        return
    if len(glob.glob(_FILES)) >= int(_AFTER):
        try:
            os.close(os.open(_MARK, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(_COMMAND, signal.SIGSTOP)


sys.addaudithook(_halt)
