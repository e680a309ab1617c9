"""Build the optional decoder into this virtual environment; print how it went."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from unmask.data.images import native

CHECK = (
    "import sys; from pathlib import Path; "
    "from unmask.data.images.native import load_decoder; "
    "sys.exit(not load_decoder(Path(sys.argv[1])))"
)
FLAGS = ("-O2", "-fPIC", "-shared", "-Wall")


def build(folder: Path) -> tuple[Path | None, str]:
    """Build the library; return (path, description), or (None, why not).

    Nothing depends on the library: without it the same pixels are decoded slower.
    """
    compiler = find_compiler()
    if compiler is None:
        return None, "there is no C compiler"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as build_folder:
        library = Path(build_folder) / "region.so"
        source = str(native.SOURCE)
        compiled = run(compiler, *FLAGS, source, "-o", str(library), "-ljpeg")
        if compiled.returncode:
            complaint = first_error(compiled.stderr)[-120:]
            return (
                None,
                f"libjpeg-turbo's jpeglib.h is not there or does not fit ({complaint})",
            )
        # in a process of its own: a library that does not fit its header may crash
        src = str(native.SOURCE.parents[4])
        checked = run(sys.executable, "-c", CHECK, str(library), PYTHONPATH=src)
        if checked.returncode:
            return None, "the installed libjpeg decodes other pixels than Pillow"
        target = folder / native.library_name()
        # in one step: no process ever loads half a library
        library.replace(target)
    return target, f"JPEGs are decoded by region ({target.stem})"


def find_compiler() -> str | None:
    """Return $CC, or the first C compiler on the path."""
    installed = filter(None, map(shutil.which, ("cc", "gcc", "clang")))
    return os.environ.get("CC") or next(installed, None)


def first_error(stderr: str) -> str:
    """Return the first line that names an error, or all of a short output."""
    errors = (line for line in stderr.splitlines() if "error" in line)
    return next(errors, stderr.strip())


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with these environment variables added, and capture its output."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
    )


if __name__ == "__main__":
    path, description = build(native.FOLDER)
    if path:
        print(f"native decoder: built, {description}")
    else:
        print(f"native decoder: not built, {description}; simplejpeg decodes instead")
