"""A local page to look into autoencoders: what they fill in, attend to and encode."""

import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from unmask.commands.foreign_weights import check_foreign, print_notes, refuse_hints
from unmask.config.checks import ConfigError
from unmask.config.section import Count, PathText, Section
from unmask.config.stage_paths import StagePath
from unmask.exchange.geometry import Hints

# the page is for the person at this machine
HOST = "127.0.0.1"
# ports below need rights that nobody should run this with
FIRST_PORT, LAST_PORT = 1024, 65535
Port = Annotated[int, Field(ge=FIRST_PORT, le=LAST_PORT)]


class Studio(Section):
    checkpoint: StagePath
    other: StagePath | None
    images: PathText | None
    count: Count
    port: Port
    browser: bool
    # for weights of others alone
    target: Literal["pixel", "pixel_norm"] | None
    weights: str | None
    grid: tuple[Count, Count] | None
    heads: Count | None
    decoder_heads: Count | None


def run(arguments: Studio) -> None:
    """Load the checkpoints and serve the page until Ctrl-C.

    Raises ConfigError, before torch is imported, where gradio is missing, the port is
    taken, or there are no weights.
    """
    hints = Hints(arguments.heads, arguments.decoder_heads, arguments.grid)
    locations = {"checkpoint": arguments.checkpoint, "other": arguments.other}
    outlines = [
        check_foreign(key, Path(location), hints, arguments.weights)
        for key, location in locations.items()
        if location
    ]
    if not any(outlines):
        own = Path(arguments.checkpoint)
        refuse_hints(own, hints, weights=arguments.weights, target=arguments.target)
    elif not any(outline and outline.geometry.decoder for outline in outlines):
        for key in ("target", "decoder_heads"):
            if (value := getattr(arguments, key)) is not None:
                raise ConfigError(
                    f"{key}={value}: these weights have no decoder; leave it out"
                )
    check_gradio()
    check_port(arguments.port)
    # torch takes seconds: imported once the rest is checked
    from unmask.commands.reconstruct.foreign import Reading
    from unmask.commands.studio.session import open_session

    reading = Reading(hints, arguments.weights, arguments.target)
    paths = [Path(location) for location in locations.values() if location]
    images = Path(arguments.images) if arguments.images else None
    # what is dropped on the page stays no longer than the page
    with tempfile.TemporaryDirectory(prefix="unmask-studio-") as folder:
        session, notes = open_session(
            paths, reading, images, arguments.count, Path(folder)
        )
        print_notes(notes)
        from unmask.commands.studio.page import serve_page

        serve_page(session, HOST, arguments.port, arguments.browser)


def check_gradio() -> None:
    """Raise ConfigError where the library that makes the page is not installed."""
    if find_spec("gradio") is None:
        raise ConfigError(
            "gradio, which makes the page, is not installed; type: make studio, or"
            " pip install 'unmask[studio]'"
        )


def check_port(port: int) -> None:
    """Raise ConfigError, with a free port, where another program listens on this."""
    if _is_free(port):
        return
    later = range(port + 1, LAST_PORT + 1)
    free = next((each for each in later if _is_free(each)), 0)
    hint = f"port={free}" if free else "a lower one"
    raise ConfigError(f"port={port} is taken by another program; type {hint}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # as servers bind: a port that was closed a moment ago is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


__all__ = ["Studio", "run"]
