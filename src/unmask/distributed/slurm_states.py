"""The states of SLURM's jobs, from its queue and, of those that have left it, sacct.

submitit asks sacct alone, up to ten minutes late, and where there is no accounting it
waits for a lost job forever.
"""

import getpass
import subprocess
import time
import warnings

from submitit.slurm.slurm import SlurmInfoWatcher

# the longest time between two looks
LOOK_SECONDS = 20
# how long squeue and sacct may take to answer
ANSWER_SECONDS = 60
# of a job that is in the queue no longer and that sacct does not know
GONE = "no longer in the queue"


class QueueWatcher(SlurmInfoWatcher):
    """Know the states of all jobs of a sweep, by one call for all of them."""

    def __init__(self) -> None:
        super().__init__(delay_s=LOOK_SECONDS)
        self._has_warned = False

    def update(self) -> None:
        """Ask for the states of all registered jobs that have not ended."""
        command = self._make_command()
        if command is None:
            return
        self._num_calls += 1
        own = f"--user={getpass.getuser()}"
        queued = _answer(["squeue", own, "--noheader", "--array", "--format=%i|%T|%N"])
        ended = _answer(command)
        if queued is None and ended is None and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "neither squeue nor sacct answers: a job that is lost is noticed when"
                " one of them does",
                stacklevel=2,
            )
        if ended is not None:
            self._info_dict.update(self.read_info(ended))
        if queued is not None:
            self._note_queue(queued)
        self._last_status_check = time.time()
        for job_id in self._registered - self._finished:
            if self.is_done(job_id, mode="cache"):
                self._finished.add(job_id)

    def _note_queue(self, text: str) -> None:
        """Take the states of queued jobs; the others have ended, however it is called.

        sacct may be late, and calls a job that comes back PREEMPTED like one that does
        not.
        """
        rows = [line.split("|") for line in text.splitlines() if "|" in line]
        queued = {job: {"State": state, "NodeList": node} for job, state, node in rows}
        for job_id in self._registered - self._finished:
            if job_id in queued:
                self._info_dict[job_id] = queued[job_id]
            elif not self.is_done(job_id, mode="cache"):
                self._info_dict[job_id] = {"State": GONE}


def _answer(command: list[str]) -> str | None:
    """Return what a command prints; None where it fails or there is none."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
