"""Pages in headless Chromium, where it is installed."""

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def dump_dom(page: Path, milliseconds: int, *flags: str) -> tuple[str, str]:
    """Return the page as it is after so long, and what the browser complained of.

    milliseconds: virtual ones. The browser's profile lies beside the page.
    """
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        f"--user-data-dir={page.parent / 'profile'}",
        "--allow-file-access-from-files",
        f"--virtual-time-budget={milliseconds}",
        *flags,
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout, done.stderr
