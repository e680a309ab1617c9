"""Weights of others that a command is given: checked before torch is imported."""

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from unmask.config.checks import ConfigError
from unmask.exchange.geometry import Hints
from unmask.exchange.header import read_header
from unmask.exchange.outline import Outline, read_outline
from unmask.exchange.weight_files import find_weights


def check_foreign(
    key: str, location: Path, hints: Hints, choice: str | None
) -> Outline | None:
    """Return what a file of others holds; None for this project's checkpoints.

    hints, choice: as `read_outline` takes them. Raises ConfigError, which names the
    key, where there are no weights that can be read.
    """
    try:
        if find_weights(location).is_stage or "config" in read_header(location).record:
            return None
        return read_outline(location, hints, choice=choice)
    except ValueError as error:
        raise ConfigError(f"{key}={error}") from None


def print_notes(notes: Iterable[str]) -> None:
    """Print on stderr what was assumed of weights of others."""
    errors = Console(stderr=True, soft_wrap=True)
    for note in notes:
        errors.print(note, markup=False)


def refuse_hints(location: Path, hints: Hints, **others: str | None) -> None:
    """Raise ConfigError for what a checkpoint of this project says itself."""
    for key, value in (hints._asdict() | others).items():
        if value is not None:
            raise ConfigError(f"{key}={value}: {location} says it itself; leave it out")


def require_decoder(outline: Outline) -> None:
    """Raise ConfigError for weights that draw no patches."""
    if outline.geometry.decoder is None:
        refuse_encoder_alone(outline.header.path, outline.layout)


def refuse_encoder_alone(path: Path, layout: str) -> NoReturn:
    """Raise ConfigError for weights that draw no patches."""
    raise ConfigError(
        f"checkpoint={path} ({layout}) holds no decoder, which draws the hidden"
        " patches; give a file with its decoder (the official code calls them"
        " visualize or full)"
    )


def require_head(outline: Outline) -> None:
    """Raise ConfigError for weights that know no classes."""
    if outline.pool is None:
        raise ConfigError(
            f"checkpoint={outline.header.path} ({outline.layout}) has no classifier's"
            " head; give fine-tuned weights"
        )
