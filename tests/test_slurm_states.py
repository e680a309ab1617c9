"""A job that has left SLURM's queue has ended, with accounting or without."""

import subprocess
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from submitit.core.job_environment import SignalHandler

from hydra_plugins.submitit_launcher import refuse_short_limit
from unmask.config.checks import ConfigError
from unmask.distributed import slurm_states
from unmask.distributed.slurm_states import GONE, LOOK_SECONDS, QueueWatcher
from unmask.distributed.submitit_job import ATTEMPT, count_only_timeouts, last_words

SACCT = "JobID|State|NodeList\n"


def watcher_of(
    monkeypatch: pytest.MonkeyPatch, squeue: str | None, sacct: str | None
) -> QueueWatcher:
    """Return a watcher of the jobs 7_0 and 7_1; None: the program fails."""

    def answer(command: list[str], **_: Any) -> Any:
        text = {"squeue": squeue, "sacct": sacct}[command[0]]
        return SimpleNamespace(returncode=int(text is None), stdout=text or "")

    monkeypatch.setattr(subprocess, "run", answer)
    watcher = QueueWatcher()
    for job in ("7_0", "7_1"):
        watcher.register_job(job)
    watcher.update()
    return watcher


@pytest.mark.parametrize(
    ("squeue", "sacct", "states"),
    [
        ("7_0|RUNNING|n1\n7_1|PENDING|\n", None, ["RUNNING", "PENDING"]),
        ("7_0|RUNNING|n1\n", None, ["RUNNING", GONE]),
        ("", None, [GONE, GONE]),
        # sacct names the end; that it may be late changes nothing
        ("", f"{SACCT}7_0|CANCELLED by 0|n1\n7_1|RUNNING|n1\n", ["CANCELLED", GONE]),
        # a preempted job that comes back, and one that does not
        (
            "7_0|PENDING|\n",
            f"{SACCT}7_0|PREEMPTED|n1\n7_1|PREEMPTED|n1\n",
            ["PENDING", GONE],
        ),
        (None, f"{SACCT}7_0|RUNNING|n1\n7_1|NODE_FAIL|n1\n", ["RUNNING", "NODE_FAIL"]),
    ],
)
def test_a_job_has_ended_when_it_is_in_the_queue_no_longer(
    squeue: str | None,
    sacct: str | None,
    states: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watcher = watcher_of(monkeypatch, squeue, sacct)
    found = [watcher.get_state(job, mode="cache") for job in ("7_0", "7_1")]
    assert [state.removesuffix(" by 0") for state in found] == states
    running = [state in ("RUNNING", "PENDING") for state in states]
    assert [not watcher.is_done(job, mode="cache") for job in ("7_0", "7_1")] == running


def test_where_nothing_answers_jobs_are_waited_for_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.warns(UserWarning, match="neither squeue nor sacct answers"):
        watcher = watcher_of(monkeypatch, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watcher.update()
    assert not watcher.is_done("7_0", mode="cache")


def test_jobs_are_looked_at_again_soon_however_old_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watcher = watcher_of(monkeypatch, "7_0|RUNNING|n1\n7_1|RUNNING|n1\n", None)
    # two days later
    watcher._start_time -= 172_800
    watcher._last_status_check -= LOOK_SECONDS + 1
    monkeypatch.setattr(slurm_states, "_answer", lambda command: "")
    assert watcher.get_state("7_1") == GONE


def submitit_handler(minutes: int, ran_seconds: float) -> SignalHandler:
    delayed: Any = SimpleNamespace(_timeout_min=minutes, _timeout_countdown=0)
    handler = SignalHandler(SimpleNamespace(), None, delayed)  # type: ignore[arg-type]
    handler._start_time -= ran_seconds
    return handler


@pytest.mark.parametrize(
    ("minutes", "ran_seconds", "is_timeout"),
    [(8, 60, False), (8, 310, True), (60, 54 * 60, False), (60, 57 * 60 + 1, True)],
)
def test_a_preempted_job_is_not_counted_as_one_that_ran_out_of_time(
    minutes: int, ran_seconds: float, is_timeout: bool
) -> None:
    handler = submitit_handler(minutes, ran_seconds)
    count_only_timeouts(handler.checkpoint_and_try_requeue, 120)
    assert handler.has_timed_out() == is_timeout
    # what is no handler of submitit is left alone
    count_only_timeouts(None, 120)


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("", "no output"),
        (f"{ATTEMPT}\none\ntwo\n", "two"),
        (f"{ATTEMPT}\nold\n{ATTEMPT}\nnew\n", "new"),
        (f"{ATTEMPT}\nold\n{ATTEMPT}\n", "no output"),
        (
            f"{ATTEMPT}\n*** JOB 2 CANCELLED AT noon DUE TO TIME LIMIT ***\nsrun: end\n",
            "*** JOB 2 CANCELLED AT noon DUE TO TIME LIMIT ***",
        ),
        (
            f"{ATTEMPT}\nold\nslurmstepd: error: *** JOB 3 ON n1 CANCELLED AT"
            " 2026-01-01T00:00:00 DUE TO JOB REQUEUE ***\nsrun: forced\n",
            "no output since it was put into the queue again",
        ),
    ],
)
def test_the_last_words_of_a_job_are_those_of_its_last_attempt(
    stderr: str, expected: str
) -> None:
    assert last_words(stderr) == expected


def test_a_limit_that_leaves_no_time_is_refused() -> None:
    refuse_short_limit({})
    refuse_short_limit({"timeout_min": 4})
    refuse_short_limit({"timeout_min": 3, "signal_delay_s": 30})
    for options in ({"timeout_min": 3}, {"timeout_min": 10, "signal_delay_s": 600}):
        with pytest.raises(ConfigError, match=r"timeout_min = .*set at least (4|12)$"):
            refuse_short_limit(options)
