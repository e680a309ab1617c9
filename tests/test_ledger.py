"""One process writes a folder; its result appears last and complete."""

import json
import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from forked import forkserver
from small_runs import plan_for
from unmask.stages.ledger import LedgerError, StageFolder


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    return StageFolder(tmp_path, plan_for("stages=[scratch]").stages[0])


def hold_folder(runs_dir: Path, is_held: "multiprocessing.synchronize.Event") -> None:  # type: ignore[name-defined]
    folder = StageFolder(runs_dir, plan_for("stages=[scratch]").stages[0])
    folder.create()
    with folder.hold_lock(wait=False):
        is_held.set()
        time.sleep(60)


@pytest.fixture
def owner(tmp_path: Path):
    """Start another process that owns the folder until it is killed."""
    is_held = forkserver().Event()
    process = forkserver().Process(target=hold_folder, args=(tmp_path, is_held))
    process.start()
    assert is_held.wait(60)
    yield process
    process.kill()
    process.join()


def test_the_result_is_none_until_it_is_finished(
    folder: StageFolder,
) -> None:
    folder.create()
    assert folder.result() is None
    folder.finish({"val/accuracy": 50.0}, {"seconds": 1.0, "images": 10})
    result = folder.result()
    assert result is not None
    assert result["metrics"] == {"val/accuracy": 50.0}
    assert result["fingerprint"] == folder.spec.fingerprint


def test_a_second_process_is_told_who_holds_the_folder(
    folder: StageFolder, owner
) -> None:
    with (
        pytest.raises(
            LedgerError, match=rf"owned by process {owner.pid} on .* drop wait=false"
        ),
        folder.hold_lock(wait=False),
    ):
        pass


def test_a_killed_owners_lock_is_free(folder: StageFolder, owner) -> None:
    owner.kill()
    owner.join()
    with folder.hold_lock(wait=False):
        pass


def test_a_waiting_process_says_so_and_goes_on_when_the_owner_is_gone(
    folder: StageFolder, owner
) -> None:
    messages: list[str] = []
    threading.Timer(0.5, owner.kill).start()
    with folder.hold_lock(wait=True, report=messages.append):
        pass
    assert f"waiting for process {owner.pid}" in messages[0]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = StageFolder(tmp_path / "file", plan_for("stages=[scratch]").stages[0])
    with pytest.raises(
        LedgerError, match=r"cannot write in .*file/scratch.* runs_dir="
    ):
        folder.create()


def test_a_full_disk_is_told_in_one_line(
    folder: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LedgerError, match="No space left on device"):
        folder.create()


RESULT = {
    "title": "kNN",
    "fingerprint": "0" * 12,
    "seconds": 1.0,
    "images": 10,
    "metrics": {"val/accuracy": 90.0},
}
IMPOSSIBLE = [
    json.dumps(RESULT | wrong).encode()
    for wrong in (
        {"images": None},
        {"metrics": {"val/accuracy": "x"}},
        {"metrics": {"val/accuracy": 500}},
        {"metrics": None},
    )
]


@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff\xfe", b"[]", b'{"a": 1}', *IMPOSSIBLE]
)
def test_a_damaged_result_is_named(content: bytes, folder: StageFolder) -> None:
    folder.create()
    (folder.path / "result.json").write_bytes(content)
    with pytest.raises(
        LedgerError, match=r"result.json cannot be read .*remove it to redo the stage"
    ):
        folder.result()


def test_a_failure_leaves_its_error_and_a_success_clears_it(
    folder: StageFolder,
) -> None:
    folder.create()
    folder.record_failure(ValueError("what went wrong"))
    assert "what went wrong" in (folder.path / "error.txt").read_text()
    folder.finish({}, {})
    assert not (folder.path / "error.txt").exists()


def test_the_resolved_config_is_kept(folder: StageFolder) -> None:
    folder.create()
    folder.write_config({"mask_ratio": 0.75})
    assert "mask_ratio: 0.75" in (folder.path / "config.yaml").read_text()
    assert json.loads(json.dumps(folder.spec.science)) == folder.spec.science


def test_the_next_owner_removes_half_written_files(
    folder: StageFolder,
) -> None:
    folder.create()
    for name in (".result.json.123.tmp", ".probe.123"):
        (folder.path / name).write_text("{")
    with folder.hold_lock(wait=False):
        assert not list(folder.path.glob(".*"))
