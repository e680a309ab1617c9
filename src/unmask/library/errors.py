"""The one exception of `import unmask`, whose text is a sentence for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

from unmask.commands.cli import USER_ERRORS, user_message
from unmask.data.images.unreadable import printable


class InputError(ValueError):
    """Say what is wrong with a place, images or options, and what to give instead."""

    def __init__(self, text: str) -> None:
        # names of files may hold line breaks
        super().__init__(printable(text))


@contextmanager
def as_input_errors() -> Iterator[None]:
    """Raise InputError for the errors that commands show as a line."""
    try:
        yield
    except InputError:
        raise
    except USER_ERRORS as error:
        # what commands call checkpoint= is the place of `load`
        text = user_message(error).removeprefix("checkpoint=")
        raise InputError(f"{text}") from error
