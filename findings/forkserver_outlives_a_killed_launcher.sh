#!/usr/bin/env bash
# CPython 3.11 to 3.13, multiprocessing's forkserver (Linux): a child keeps it alive.
#
# The server ends when the pipe to the process that started it is closed, so one expects
# it to be gone when that process is killed. But each child that it forks inherits a copy
# of the pipe's other end. So after a `kill -9` of a launcher the server goes on, with all
# that it has imported in memory, until the last child ends by itself; and the children
# learn nothing either: their parent is the server, so a death signal that they have asked
# for (PR_SET_PDEATHSIG) does not come. A launcher whose children train for hours
# leaves the whole tree behind. The server must ask for a death signal itself.
#
# Seen: two seconds after the launcher was killed server and child run; when the child
# ends, the server does. Without a child the server ends with its launcher. The script
# fails if that changes. It needs no package.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > launcher.py <<'PYTHON'
import multiprocessing
import os
import sys
import time
from multiprocessing import forkserver


def child() -> None:
    time.sleep(6)


if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    forkserver.ensure_running()
    process = context.Process(target=child)
    pids = [forkserver._forkserver._forkserver_pid]
    if sys.argv[1] == "child":
        process.start()
        pids.append(process.pid)
    print(*pids, flush=True)
    time.sleep(60)
PYTHON
cat > watch.py <<'PYTHON'
import os
import subprocess
import sys
import time


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def after_kill(mode: str) -> tuple[list[int], list[bool]]:
    launcher = subprocess.Popen(
        [sys.executable, "launcher.py", mode], stdout=subprocess.PIPE, text=True
    )
    pids = [int(word) for word in launcher.stdout.readline().split()]
    launcher.kill()
    launcher.wait()
    time.sleep(2)
    return pids, [runs(pid) for pid in pids]


_, alone = after_kill("alone")
pids, with_child = after_kill("child")
time.sleep(8)
later = [runs(pid) for pid in pids]
print("server alone:", alone, "server, child:", with_child, "and 8 s later:", later)
assert alone == [False]
assert with_child == [True, True], "the server ends with its launcher now"
assert later == [False, False]
PYTHON
python3 watch.py
