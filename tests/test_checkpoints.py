"""No kill, full disk or flipped bit loses a run, and no file runs code."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.storage import checkpoints
from unmask.storage.atomic import atomic_write


def content(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "state_dict": {
            "model.encoder.a": torch.full((3,), float(step)),
            "other.b": torch.ones(1),
        },
    }


def save(folder: Path, *steps: int, keep: int = 2) -> None:
    for step in steps:
        checkpoints.save(content(step), folder, step, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_and_no_others(tmp_path: Path, keep: int) -> None:
    save(tmp_path, 1, 2, 3, 4, keep=keep)
    assert names(tmp_path) == [
        "last.json",
        *(f"step={step:08d}.ckpt" for step in range(5 - keep, 5)),
    ]
    newest = checkpoints.newest(tmp_path)
    assert newest is not None
    assert checkpoints.load(newest)["step"] == 4


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 2)
    assert [entry["step"] for entry in checkpoints.index_entries(tmp_path)] == [1, 2]


def test_a_damaged_newest_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1, 2)
    flip_bit(tmp_path / "step=00000002.ckpt")
    with pytest.warns(
        UserWarning,
        match=r"step=00000002.ckpt is damaged .* set aside as step=00000002.damaged",
    ):
        newest = checkpoints.newest(tmp_path)
    assert newest == tmp_path / "step=00000001.ckpt"
    assert "step=00000002.damaged" in names(tmp_path)


def test_without_an_intact_file_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    save(tmp_path, 1)
    (tmp_path / "step=00000001.ckpt").unlink()
    assert checkpoints.newest(tmp_path) is None


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_whole_one(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1, 2)
    flip_bit(tmp_path / "step=00000002.ckpt")
    with pytest.warns(UserWarning, match="damaged"):
        checkpoints.newest(tmp_path)
    save(tmp_path, 3)
    assert [name for name in names(tmp_path) if name.endswith("ckpt")] == [
        "step=00000001.ckpt",
        "step=00000003.ckpt",
    ]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\xfe\xff", b"{}", b"[{}]", b"null", b"[1]", b"[]"]
)
def test_a_damaged_index_does_not_hide_the_checkpoints(
    tmp_path: Path, damage: bytes
) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "last.json").write_bytes(damage)
    assert checkpoints.newest(tmp_path) == tmp_path / "step=00000002.ckpt"


def test_a_damaged_checkpoint_that_no_index_lists_is_set_aside_too(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1)
    (tmp_path / "last.json").unlink()
    (tmp_path / "step=00000001.ckpt").write_bytes(b"cut")
    with pytest.warns(
        UserWarning,
        match=r"step=00000001.ckpt is damaged \(it does not open\), set aside",
    ):
        assert checkpoints.newest(tmp_path) is None
    assert "step=00000001.damaged" in names(tmp_path)


def test_half_written_files_of_a_kill_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".step=00000002.ckpt.12345.tmp").write_bytes(b"half")
    assert checkpoints.newest(tmp_path) == tmp_path / "step=00000001.ckpt"
    save(tmp_path, 3)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_a_full_disk_is_reported_and_spares_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full(_: Any, file: Any) -> None:
        file.write(b"x" * 1_234)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    message = (
        r"cannot write .*step=00000002.ckpt.*No space left.*\(after 1,234 bytes, [\d,]+"
        r" free\); .* at step=00000001"
    )
    with pytest.raises(OSError, match=message):
        save(tmp_path, 2)
    assert names(tmp_path) == ["last.json", "step=00000001.ckpt"]
    assert checkpoints.newest(tmp_path) == tmp_path / "step=00000001.ckpt"


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_checkpoint_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    torch.save({"state_dict": Malicious(trace)}, path)
    with pytest.raises(
        ValueError,
        match=r"evil.ckpt is not a readable checkpoint: it wants to run code, which is",
    ):
        checkpoints.load(path)
    assert not trace.exists()


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint at .*nowhere.ckpt"):
        checkpoints.load(tmp_path / "nowhere.ckpt")
    for content in (
        b"not a checkpoint",
        b"",
        b"\xff\xd8\xff\xe0 a picture",
        b"PK\x03\x04 cut",
    ):
        (tmp_path / "text.ckpt").write_bytes(content)
        with pytest.raises(
            ValueError,
            match=(
                r"text.ckpt is not a readable checkpoint: cut, damaged, or another kind"
            ),
        ):
            checkpoints.load(tmp_path / "text.ckpt")


def test_weights_are_those_below_the_prefix_without_it(tmp_path: Path) -> None:
    save(tmp_path, 7)
    state = checkpoints.load(tmp_path / "step=00000007.ckpt")["state_dict"]
    weights = checkpoints.strip_prefix(state, "model.encoder.")
    assert {name: value.tolist() for name, value in weights.items()} == {
        "a": [7.0, 7.0, 7.0]
    }


def test_files_that_another_process_is_writing_are_not_removed(
    tmp_path: Path,
) -> None:
    """Such as a rank's part of a record; half-written checkpoints are removed."""
    with atomic_write(tmp_path / "record.rank1.json") as other:
        other.write(b"{}")
        (tmp_path / ".step=00000001.ckpt.abcd.tmp").write_bytes(b"half")
        (tmp_path / ".last.json.abcd.tmp").write_bytes(b"half")
        checkpoints.save({"global_step": 2}, tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last.json",
        "record.rank1.json",
        "step=00000002.ckpt",
    ]
