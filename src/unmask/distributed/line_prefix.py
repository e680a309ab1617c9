"""A prefix before every line of a cell's output: which of several cells prints it."""

import atexit
import io
import os
import shutil
import sys
from typing import TextIO

# holds the prefix; set by the launcher of a sweep
PREFIX_VARIABLE = "UNMASK_CELL"


class PrefixedStream(io.TextIOBase):
    """A text stream that begins every line with a prefix.

    Each line is written as a whole, so that lines of several processes do not mix. It
    is no terminal (isatty): a moving progress bar needs a line of its own.
    """

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream = stream
        self.prefix = prefix
        # the last line, as long as it has no end
        self._unfinished = ""

    def write(self, text: str) -> int:
        text_so_far = self._unfinished + text
        lines, newline, self._unfinished = text_so_far.rpartition("\n")
        if newline:
            prefixed = [f"{self.prefix}{line}\n" for line in lines.split("\n")]
            self._stream.write("".join(prefixed))
            self._stream.flush()
        return len(text)

    def close_line(self) -> None:
        """Write the unfinished line, if there is one."""
        if self._unfinished:
            self.write("\n")

    def fileno(self) -> int:
        return self._stream.fileno()


def prefix_lines() -> None:
    """Prefix this process's stdout and stderr if the launcher of a sweep asks for it.

    To be called first by a command that may be a cell of a sweep.
    """
    # taken out of the environment: the processes that it starts do not inherit it
    prefix = os.environ.pop(PREFIX_VARIABLE, "")
    if not prefix:
        return
    # tables must fit beside the prefix
    columns = shutil.get_terminal_size().columns - len(prefix)
    os.environ["COLUMNS"] = str(columns)
    for name in ("stdout", "stderr"):
        stream = PrefixedStream(getattr(sys, name), prefix)
        setattr(sys, name, stream)
        atexit.register(stream.close_line)
