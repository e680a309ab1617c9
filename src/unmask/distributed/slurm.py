"""Put a preempted SLURM job into the queue again."""

import os
import subprocess
import time

from unmask.distributed.processes import (
    CHILD_VARIABLE,
    PREEMPTION_SIGNALS,
    received_signals,
)
from unmask.distributed.ranks import rank_info

# SLURM may send the signal that announces the time limit so much earlier than it is
# asked to
EARLY_SECONDS = 60
# how long scontrol may take to answer
SCONTROL_SECONDS = 60
# The other tasks wait before they exit: on some clusters (KillOnBadExit) a task's exit
# code ends all tasks, and the first one must have asked by then.
HEAD_START_SECONDS = 10


def requeue(enabled: bool) -> None:
    """Ask SLURM to run this job again, and print its answer.

    To be called by a command that has saved and is about to exit with 75. The job's
    first task asks. Nothing happens outside of a SLURM job, or where another process
    asks: submitit for its own jobs, the parent for ranks and for cells of a sweep.
    """
    # Only after SLURM's own signals. scancel sends SIGTERM and people press Ctrl-C:
    # they want the job to end.
    is_preempted = bool(received_signals) and received_signals[0] in PREEMPTION_SIGNALS
    if (
        not enabled
        or not is_preempted
        or "SLURM_JOB_ID" not in os.environ
        or {CHILD_VARIABLE, "SUBMITIT_EXECUTOR"} & os.environ.keys()
    ):
        return
    ranks = rank_info()
    if ranks is not None and ranks.rank > 0:
        time.sleep(HEAD_START_SECONDS)
        return
    job = job_id()
    refusal = _ask_scontrol(job)
    if refusal:
        answer = (
            f"job {job} was not put into the queue again ({refusal}); run the same"
            " command again to go on"
        )
    else:
        answer = f"job {job} is in the queue again and goes on from here"
    print(answer, flush=True)


def job_id() -> str:
    """Return the job's id; for a task of an array, the task's and not the array's."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _ask_scontrol(job: str) -> str:
    """Requeue the job; return why it was refused, or an empty string."""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job],
            capture_output=True,
            text=True,
            timeout=SCONTROL_SECONDS,
        )
    except FileNotFoundError:
        return "there is no scontrol here"
    except subprocess.TimeoutExpired:
        return f"scontrol gave no answer in {SCONTROL_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    output = done.stderr.strip() or done.stdout.strip()
    if output:
        return output.splitlines()[-1]
    return f"scontrol ended with {done.returncode}"
