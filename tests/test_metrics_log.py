"""The journal survives kills: half a line does not count, and steps to be made again are cut away."""

from pathlib import Path

from unmask.storage.metrics_log import append, read, truncate_after


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    rows = [{"step": 1, "train/loss": 0.1234567890123}, {"step": 2, "val/loss": 3.0}]
    for row in rows:
        append(tmp_path / "metrics.jsonl", row)
    assert read(tmp_path / "metrics.jsonl") == rows


def test_a_half_written_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "train/lo')
    assert read(path) == [{"step": 1}]


def test_cutting_back_keeps_the_checkpoints_own_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (2, 4, 6):
        append(path, {"step": step})
    truncate_after(path, 4)
    assert [row["step"] for row in read(path)] == [2, 4]
    truncate_after(path, 0)
    assert read(path) == []


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / "none.jsonl") == []
    truncate_after(tmp_path / "none.jsonl", 3)


def test_a_line_that_a_kill_cut_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "train/lo')
    append(path, {"step": 2, "val/loss": 3.0})
    assert read(path) == [{"step": 1}, {"step": 2, "val/loss": 3.0}]
