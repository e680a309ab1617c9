"""Builds the optional decoder into this virtual environment, and says in a line how it went."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from unmask.data.images import native

CHECK = (
    "import sys; from pathlib import Path; "
    "from unmask.data.images.native import load; sys.exit(not load(Path(sys.argv[1])))"
)
FLAGS = ("-O2", "-fPIC", "-shared", "-Wall")


def build(folder: Path) -> tuple[Path | None, str]:
    """Where it lies now, and what to say; None where there is none, which never fails anything."""
    compiler = os.environ.get("CC") or next(
        filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None
    )
    if compiler is None:
        return None, "there is no C compiler"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made = Path(place) / "region.so"
        done = run(compiler, *FLAGS, str(native.SOURCES[0]), "-o", str(made), "-ljpeg")
        if done.returncode:
            complaint = next(
                (line for line in done.stderr.splitlines() if "error" in line),
                done.stderr.strip(),
            )
            return (
                None,
                (
                    "libjpeg-turbo's jpeglib.h is not there or does not fit"
                    f" ({complaint[-120:]})"
                ),
            )
        # in a process of its own: a library that does not fit its header may crash
        if run(
            sys.executable,
            "-c",
            CHECK,
            str(made),
            PYTHONPATH=str(native.SOURCES[0].parents[4]),
        ).returncode:
            return None, "this machine's libjpeg decodes other pixels than Pillow"
        target = folder / f"region-{native.source_hash()}-{turbo(compiler)}.so"
        made.replace(target)
    return target, f"JPEGs are decoded by region ({target.stem})"


def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | more
    )


def turbo(compiler: str) -> str:
    """The library's version, as its header tells it."""
    asked = subprocess.run(
        [compiler, "-E", "-P", "-"],
        input=(
            "#include <stdio.h>\n#include <jpeglib.h>\nLIBJPEG_TURBO_VERSION_NUMBER\n"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.split()[-1] if asked.stdout.split() else "0"


if __name__ == "__main__":
    path, said = build(native.FOLDER)
    print(
        f"native decoder: built, {said}"
        if path
        else f"native decoder: not built, {said}; simplejpeg decodes instead"
    )
