"""Start the cells of a sweep: warm, as importing torch and Lightning takes seconds."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from unmask.commands.cli import this_script
from unmask.distributed.forkserver import ForkServer
from unmask.distributed.processes import Started, received_signals, start_process
from unmask.stages.sweeps import SWEEP_VARIABLE, unfinished_cells

# what it imports first makes it end with this process
MODULES = ("hydra_plugins._warm_modules", "unmask.distributed.forkserver")
# a single one imports it as fast by itself
MIN_CELLS = 2


class CellStarter:
    """Start each cell as a process, which is forked from one where that is faster.

    A cell that has its results in the ledger needs no torch, and does not wait for it.
    """

    def __init__(self, runs_dir: str, warm: bool) -> None:
        """Begin to import what cells need, where `warm` is set and several will train.

        Only on Linux: elsewhere what torch has begun is not safe to fork.
        """
        sweep = os.environ.get(SWEEP_VARIABLE)
        self._to_train: set[tuple[str, ...]] = set()
        if warm and sweep and sys.platform == "linux":
            self._to_train = unfinished_cells(Path(runs_dir), sweep)
        self._server: ForkServer | None = None
        if len(self._to_train) >= MIN_CELLS:
            self._code = _code_state()
            self._server = ForkServer(MODULES)

    def wait_for(self, overrides: Sequence[str]) -> None:
        """Wait until the cell can start warm, if it will train and no signal comes."""
        server = self._server
        if server and tuple(overrides) in self._to_train:
            server.wait(give_up=received_signals)

    def start(self, overrides: Sequence[str], extra_env: dict[str, str]) -> Started:
        """Start the cell's process; extra_env: beside this process's variables."""
        command = this_script(overrides)
        # other threads start cells, too, and may drop it meanwhile
        server = self._server
        # the code of a cell is that which stands in the files, as with any new process
        if server and server.is_ready and _code_state() == self._code:
            try:
                return server.start(command, {**os.environ, **extra_env})
            except (OSError, EOFError):
                # it was killed, as the system does when memory is full
                self._server = None
        return start_process(command, extra_env)


def _code_state() -> dict[str, int]:
    """Return when each file of the project's code was changed."""
    folders = Path(__file__).parent, Path(__file__).parents[1] / "unmask"
    files = [path for folder in folders for path in folder.rglob("*.py")]
    state = {}
    for path in [*files, Path(sys.argv[0])]:
        # it may vanish meanwhile, and an editor's lock is a link to nothing
        with suppress(OSError):
            state[str(path)] = path.stat().st_mtime_ns
    return state
