"""A file is complete or absent, whatever happens while it is written."""

import os
from pathlib import Path

import pytest

from unmask.storage.atomic import atomic_write, sha256, write_json, write_text

COMPLETE = '{\n  "accuracy": 1\n}\n'


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"accuracy": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"accuracy": 2})
    assert path.read_text() == COMPLETE
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_readers_see_the_old_content_until_the_new_one_is_complete(
    tmp_path: Path,
) -> None:
    path = tmp_path / "page.html"
    write_text(path, "old")
    with atomic_write(path) as file:
        file.write(b"half of the ")
        file.flush()
        assert path.read_text() == "old"
        file.write(b"new")
    assert path.read_text() == "half of the new"


def test_the_content_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    existed: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: existed.append(path.exists()))
    write_text(path, "content")
    assert existed == [False]


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223")
