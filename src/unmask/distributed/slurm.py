"""A SLURM job that was asked to leave ahead of its limit is put into the queue again."""

import os
import subprocess
import time

from unmask.distributed.processes import CHILD, PREEMPTING, received_signals
from unmask.distributed.ranks import rank_info

PATIENCE = 60  # seconds for an answer of scontrol
# seconds that the first task has, as on some clusters a task's exit code ends all
# (KillOnBadExit)
HEAD_START = 10


def requeue(wanted: bool) -> None:
    """To be called by who leaves with 75, all being saved: the first task of the job asks for it to be run again.

    Only after SIGUSR1 or SIGUSR2: scancel sends SIGTERM, people Ctrl-C, and they want an end. A job of submitit's is
    put back by submitit, and processes of a run or cells of a sweep by what started them.
    """
    asked = bool(received_signals) and received_signals[0] in PREEMPTING
    if (
        not wanted
        or not asked
        or "SLURM_JOB_ID" not in os.environ
        or {CHILD, "SUBMITIT_EXECUTOR"} & os.environ.keys()
    ):
        return
    place = rank_info()
    if place is not None and place.rank > 0:
        time.sleep(HEAD_START)
        return
    job = job_id()
    refusal = _refused(job)
    print(
        (
            f"job {job} was not put into the queue again ({refusal}); run the same"
            " command again to go on"
            if refusal
            else f"job {job} is in the queue again and goes on from here"
        ),
        flush=True,
    )


def job_id() -> str:
    """The array task's own: SLURM_JOB_ID of one of them is the id of the whole array."""
    array, task = (
        os.environ.get("SLURM_ARRAY_JOB_ID"),
        os.environ.get("SLURM_ARRAY_TASK_ID"),
    )
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _refused(job: str) -> str:
    """Why SLURM does not do it; nothing where it does."""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except FileNotFoundError:
        return "there is no scontrol here"
    except subprocess.TimeoutExpired:
        return f"scontrol gave no answer in {PATIENCE} seconds"
    said = done.stderr.strip() or done.stdout.strip()
    return (
        ""
        if done.returncode == 0
        else said.splitlines()[-1]
        if said
        else f"scontrol ended with {done.returncode}"
    )
