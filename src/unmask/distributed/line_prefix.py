"""Which of the cells that run side by side is speaking: a mark before every line of a process."""

import atexit
import io
import os
import shutil
import sys
from typing import Protocol, runtime_checkable

PREFIX = "UNMASK_CELL"  # set by the launcher of a sweep


@runtime_checkable
class Stream(Protocol):
    """What is needed of a text stream to write below it."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def fileno(self) -> int: ...


class PrefixedStream(io.TextIOBase):
    """A text stream that begins every line with a mark and writes no line in parts, so that two never mix."""

    def __init__(self, stream: Stream, mark: str) -> None:
        self._stream, self.mark, self._open = stream, mark, ""

    def write(self, text: str) -> int:
        whole, newline, self._open = (self._open + text).rpartition("\n")
        if newline:
            self._stream.write(
                "".join(f"{self.mark}{line}\n" for line in whole.split("\n"))
            )
            self._stream.flush()
        return len(text)

    def close_line(self) -> None:
        """Write what stands on a line that has no end yet."""
        if self._open:
            self.write("\n")

    def isatty(self) -> bool:
        """A bar that moves has a line of the terminal for itself; cells side by side have not."""
        return False

    def fileno(self) -> int:
        return self._stream.fileno()


def prefix_lines() -> None:
    """To be called first by a command that may be a cell of a sweep."""
    mark = os.environ.pop(PREFIX, "")  # its own, not its workers'
    if mark:
        os.environ["COLUMNS"] = str(shutil.get_terminal_size().columns - len(mark))
        sys.stdout, sys.stderr = stdout, stderr = (
            PrefixedStream(sys.stdout, mark),
            PrefixedStream(sys.stderr, mark),
        )
        atexit.register(stdout.close_line)
        atexit.register(stderr.close_line)
