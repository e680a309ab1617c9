"""The metrics log survives kills: a cut line is skipped, repeated steps are dropped."""

from pathlib import Path

from unmask.storage.metrics_log import (
    append_row,
    read_rows,
    restore_rows,
    truncate_after,
)


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    rows = [{"step": 1, "train/loss": 0.1234567890123}, {"step": 2, "val/loss": 3.0}]
    for row in rows:
        append_row(tmp_path / "metrics.jsonl", row)
    assert read_rows(tmp_path / "metrics.jsonl") == rows


def test_a_half_written_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "train/lo')
    assert read_rows(path) == [{"step": 1}]


def test_truncating_keeps_the_checkpoints_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (2, 4, 6):
        append_row(path, {"step": step})
    truncate_after(path, 4)
    assert [row["step"] for row in read_rows(path)] == [2, 4]
    truncate_after(path, 0)
    assert read_rows(path) == []


def test_a_missing_log_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.jsonl") == []
    truncate_after(tmp_path / "none.jsonl", 3)


def test_a_line_that_a_kill_cut_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "train/lo')
    append_row(path, {"step": 2, "val/loss": 3.0})
    assert read_rows(path) == [{"step": 1}, {"step": 2, "val/loss": 3.0}]


def test_rows_that_are_lost_come_back_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 7):
        append_row(path, {"step": step})
    whole = path.read_text()
    at_checkpoint = "".join(whole.splitlines(keepends=True)[:4])
    assert restore_rows(path, at_checkpoint) == 0
    assert path.read_text() == whole
    # the beginning of row 2, rows 3 and 4 are gone
    path.write_text(whole.replace('{"step": 2}\n{"step": 3}\n{"step": 4}', 'ep": 2}'))
    assert restore_rows(path, at_checkpoint) == 3
    assert path.read_text() == whole
    path.unlink()
    assert restore_rows(path, at_checkpoint) == 4
    assert path.read_text() == at_checkpoint
