"""The folders of --config-dir: files of the user's beside those of conf/.

Hydra finds the files of groups in them by itself. Experiments and scales are read
without Hydra, also where none of it is imported, and are looked up here.
"""

from collections.abc import Sequence
from pathlib import Path

_folders: list[Path] = []


def use_folders(folders: Sequence[Path]) -> None:
    """Look up files in these folders from now on, in place of those before."""
    _folders[:] = folders


def own_folders() -> list[Path]:
    """Return the folders of --config-dir of this command, as typed."""
    return list(_folders)


def own_files(group: str) -> dict[str, Path]:
    """Return the user's files of a group by name; of two, that of the first folder.

    Hydra takes that one, too.
    """
    # a later entry replaces an earlier one
    paths = [
        path for folder in reversed(_folders) for path in folder.glob(f"{group}/*.yaml")
    ]
    return {path.stem: path for path in paths}
