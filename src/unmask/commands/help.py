"""The begin of a command, before it imports what takes a while, and its help."""

import gc
import re
import sys
from pathlib import Path

from unmask.storage.streams import outlive_streams

HELP_FLAGS = {"-h", "--help"}


def begin_command(script: str) -> None:
    """Print the help of a script and exit, if --help is typed.

    Otherwise garbage is not collected until the command calls gc.enable: imports leave
    none, and looking for it takes a tenth of their time.
    """
    if HELP_FLAGS & {*sys.argv[1:]}:
        outlive_streams()
        path = Path(script)
        print(help_text(path.parents[1] / "conf" / f"{path.stem}.yaml"), end="")
        sys.exit()
    gc.disable()


def help_text(defaults: Path) -> str:
    """Turn a command's file of defaults into its help: groups show their choices."""
    lines = []
    for line in defaults.read_text().splitlines():
        group = re.fullmatch(r"  - (\w+): (\w+)", line)
        if group:
            files = (defaults.parent / group[1]).glob("*.yaml")
            choices = sorted(path.stem for path in files)
            line = f"{group[1]}: {group[2]}    # one of {', '.join(choices)}"
        if line not in ("defaults:", "  - _self_"):
            lines.append(line)
    return "\n".join(lines) + "\n"
