"""Standard streams whose end ends no run: a closed pipe or terminal, a full disk."""

import io
import os
import sys
from contextlib import suppress
from typing import Any

# what Linux calls the standard streams
NAMES = {1: "stdout", 2: "stderr"}
# the streams that were given up
dropped: set[str] = set()


class LastingFile(io.FileIO):
    """Write to a file descriptor, or nowhere once that has failed."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self._drop(error)
            return len(data)

    def _drop(self, error: OSError) -> None:
        """Let the descriptor lead nowhere, also for processes started from now on."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        name = NAMES.get(self.fileno(), str(self.name))
        dropped.add(name)
        line = f"{name} cannot be written ({error.strerror}); going on without it\n"
        if self.fileno() != 2:
            with suppress(OSError):
                os.write(2, line.encode())


def outlive_streams() -> None:
    """Let stdout and stderr drop what they cannot write, instead of raising an error.

    rich, which prints the tables and bars, would end the process at a closed pipe.
    """
    for name in NAMES.values():
        stream = getattr(sys, name)
        # tests replace them by text in memory
        if type(stream) is io.TextIOWrapper:
            setattr(sys, name, lasting(stream))


def lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream on the same descriptor that drops what it cannot write."""
    stream.flush()
    raw: Any = LastingFile(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        # where Python is to buffer nothing (-u), neither does it between the two
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
