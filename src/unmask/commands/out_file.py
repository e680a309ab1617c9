"""The file that a command writes: checked before anything is computed."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from unmask.config.checks import ConfigError

PARQUET_SUFFIX = ".parquet"


def check_out(
    out: Path,
    suffixes: Iterable[str],
    read: Mapping[str, str | None],
    beside: Iterable[Path] = (),
) -> None:
    """Raise ConfigError for a place that cannot be written, or a file that is read.

    read: the key of each file that the command reads, and its path. beside: what is
    written together with `out`.
    """
    if out.suffix.lower() not in suffixes:
        raise ConfigError(
            f"out={out}: its ending says how it is written; end it in"
            f" {' or '.join(suffixes)}"
        )
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder; give the name of a file in it")
    if not out.absolute().parent.is_dir():
        raise ConfigError(
            f"out={out}: its folder does not exist; make it, or give another place"
        )
    for written in (out, *beside):
        for key, path in read.items():
            if path and written.exists() and written.samefile(path):
                raise ConfigError(
                    f"out={out}: it would replace {written}, which {key}= reads; give"
                    " another place"
                )
