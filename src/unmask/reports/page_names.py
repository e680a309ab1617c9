"""Where pages are, what they are called, and which page shows a stage."""

import json
import re
from contextlib import suppress
from pathlib import Path

from unmask.stages.fingerprint import digest
from unmask.stages.plan import Plan
from unmask.storage.atomic import write_json

# below runs_dir
FOLDER = "pages"
SLUG_LENGTH = 60
# fine in a file's name and in a link everywhere
UNSAFE = re.compile(r"[^\w.,=+-]+")
ID_LENGTH = 8


def file_name(title: str, identity: str) -> str:
    """Return a page's name without suffix: what people look for, and what tells apart.

    identity: a hash, of which a part is taken.
    """
    slug = UNSAFE.sub("_", title)[:SLUG_LENGTH].strip("_")
    return f"{slug}-{identity[:ID_LENGTH]}"


def run_page(plan: Plan, title: str) -> Path:
    """Return where the page of a run is; title: how the run differs from others."""
    identity = digest({"stages": [spec.fingerprint for spec in plan.stages]})
    return Path(plan.config.runs_dir) / FOLDER / f"{file_name(title, identity)}.html"


def note_stages(page: Path, plan: Plan) -> None:
    """Write beside the page of a run which stages it shows."""
    keys = [spec.key for spec in plan.stages]
    write_json(page.with_suffix(".json"), {"stages": keys})


def pages_of_stages(runs_dir: Path) -> dict[str, str]:
    """Return the name of the latest page of a run that shows it, by the stage's key."""
    notes = {}
    for path in (runs_dir / FOLDER).glob("*.json"):
        # it may be removed or replaced meanwhile
        with suppress(OSError):
            notes[path] = path.stat().st_mtime
    pages = {}
    for path in sorted(notes, key=lambda path: notes[path]):
        # a note may be damaged
        with suppress(OSError, ValueError, KeyError, TypeError):
            for key in json.loads(path.read_text())["stages"]:
                pages[key] = path.with_suffix(".html").name
    return pages
