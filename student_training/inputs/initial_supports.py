"""The initial student's distribution on stored supports, read row by row from the file that its pass wrote."""

from pathlib import Path

import numpy as np
import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("pair", pa.int64()),
        ("role", pa.string()),
        ("sample_index", pa.int32()),
        ("support_logprobs", pa.large_list(pa.float32())),
        ("tail_logprobs", pa.large_list(pa.float32())),
    ]
)
"""One row a response with signals: log-probabilities at its support, flat as shards have them, and of the tail."""


class InitialSupports:
    """Log-probabilities of the initial student by response; the file is mapped into memory, and read page by page."""

    def __init__(self, path: Path) -> None:
        """Open a file of `SCHEMA`; only the responses' keys are read before one of them is asked for."""
        self._path = path
        self._open()

    def _open(self) -> None:
        file = pa.ipc.open_file(pa.memory_map(str(self._path)))
        self._batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        self._places = {
            key: (number, place)
            for number, batch in enumerate(self._batches)
            for place, key in enumerate(
                zip(*(batch[name].to_pylist() for name in SCHEMA.names[:3]), strict=True)
            )
        }

    def __reduce__(self) -> tuple:
        # A loader process maps the file itself.
        return InitialSupports, (self._path,)

    def row(self, pair: int, role: str, sample_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Of one response: nats at its support, flat, and of the tail, shape (T,), both float32.

        Raises:
            KeyError: for a response that the pass has not seen, or that has no signals.
        """
        number, place = self._places[pair, role, sample_index]
        batch = self._batches[number]
        support, tail = (batch[name][place].values.to_numpy() for name in SCHEMA.names[3:])
        return support, tail
