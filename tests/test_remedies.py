"""An error of the disk says where, what the system said, and what helps against it."""

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from small_runs import COARSE, call, plan_for, run
from unmask.callbacks.checkpointing import Checkpointing
from unmask.commands.cli import user_message
from unmask.reconstructions import Reconstruction, contact_sheet, save_sheet
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.storage import checkpoints
from unmask.storage.remedies import REMEDIES

RUN = ("stages=[pretrain]", COARSE)


def failing(number: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "the disk is failing"),
    ],
)
def test_what_cannot_be_written_is_named_with_a_remedy_that_helps(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = torch.zeros(1, 3, 8, 8)
    writes = {
        "step=00000001.ckpt": lambda path: checkpoints.save({}, path.parent, 1),
        "epoch=0001.png": lambda path: save_sheet(
            contact_sheet(Reconstruction(tile, tile, tile)), path
        ),
    }
    monkeypatch.setattr(os, "fsync", failing(number))
    for name, write in writes.items():
        with pytest.raises(OSError, match=remedy) as raised:
            write(tmp_path / name)
        (line,) = user_message(raised.value).splitlines()
        assert f"cannot write {tmp_path / name}" in line
        assert os.strerror(number) in line
        assert not (tmp_path / name).exists()


def test_a_picture_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Image.Image, file: Any, format: str | None = None) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", cut)
    tile = torch.zeros(1, 3, 8, 8)
    with pytest.raises(KeyboardInterrupt):
        save_sheet(
            contact_sheet(Reconstruction(tile, tile, tile)), tmp_path / "epoch=0001.png"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda folder: folder / ("x" * 300), "choose a shorter path"),
        (lambda folder: folder / "there" / "runs", "links lead in a circle"),
    ],
)
def test_a_path_that_cannot_be_is_not_said_to_be_a_damaged_result(
    make: Any, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "there").symlink_to(tmp_path / "back")
    (tmp_path / "back").symlink_to(tmp_path / "there")
    done = call(f"runs_dir={make(tmp_path)}", *RUN)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert remedy in line
    assert "remove it to redo" not in line
    assert "runs_dir=" in line


def test_a_disk_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StageFolder(tmp_path, plan_for(*RUN).stages[0])
    folder.create()
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with (
        pytest.raises(LedgerError, match=r"cannot lock .*cannot lock files.*runs_dir="),
        folder.hold_lock(wait=True),
    ):
        pass


def test_a_stage_folder_that_is_removed_ends_the_run_instead_of_half_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Checkpointing.on_train_batch_end

    def removing(self: Checkpointing, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 5:
            shutil.rmtree(self.folder.parent, ignore_errors=True)
        original(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointing, "on_train_batch_end", removing)
        with pytest.raises(OSError, match=r"its folder is gone.* it begins anew"):
            run(f"runs_dir={tmp_path}", *RUN, "checkpoint.every_steps=5")
    assert not list(tmp_path.glob("pretrain/*"))


def test_a_working_folder_that_is_removed_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "cwd", failing(errno.ENOENT))
    done = call(f"runs_dir={tmp_path}", *RUN, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "has been removed" in line


def test_every_remedy_is_for_an_error_of_the_system() -> None:
    assert all(os.strerror(code) for code in REMEDIES)
