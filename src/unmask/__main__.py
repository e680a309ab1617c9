"""Run a command without a checkout: unmask predict ..., or python -m unmask predict ...

Of the commands of src/, those that need neither the paper's tables nor other scripts.
"""

import sys
from importlib import import_module
from typing import NamedTuple

from unmask.commands.cli import command, fail


class Entry(NamedTuple):
    """The module of a command's arguments, and the name of their section."""

    module: str
    section: str


COMMANDS = {
    "convert": Entry("unmask.commands.convert", "Convert"),
    "embed": Entry("unmask.commands.embed.arguments", "Embed"),
    "predict": Entry("unmask.commands.predict.arguments", "Predict"),
    "reconstruct": Entry("unmask.commands.reconstruct", "Reconstruct"),
    "studio": Entry("unmask.commands.studio", "Studio"),
}


def main() -> None:
    """Run the command that is typed first, with the arguments behind it."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    choices = ", ".join(COMMANDS)
    if name in ("", "-h", "--help"):
        print(f"unmask COMMAND key=value ...; COMMAND is one of {choices}")
        print("unmask COMMAND --help lists its keys; training needs a checkout")
        raise SystemExit(0 if name else 2)
    if name not in COMMANDS:
        fail(
            f"{name}: unmask has the commands {choices}; all others, such as training,"
            " need a checkout of the project: python src/train.py",
            2,
        )
    entry = COMMANDS[name]
    section = getattr(import_module(entry.module), entry.section)
    run = import_module(f"unmask.commands.{name}").run
    sys.argv[:2] = [f"unmask {name}"]
    command(section, run)


if __name__ == "__main__":
    main()
