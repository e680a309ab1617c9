"""The JavaScript of pages: Vega-Lite for charts, DataTables for tables.

Both come with Python packages of the lock (vl-convert-python, itables), so a page needs
no network and no file beside it.
"""

import importlib.metadata
import importlib.util
import re
from pathlib import Path

from unmask.storage.user_cache import keep, user_cache

# would end the script element that holds the text
SCRIPT_END = re.compile(r"</(script)", re.IGNORECASE)

# what the bundle does with the library that it holds
SNIPPET = "window.vegaEmbed = vegaEmbed;"
# ends the copy, so that a part of it is not taken for all
END = "\n// the end\n"


def vega() -> str:
    """Return the script that defines vegaEmbed.

    vl-convert takes seconds to bundle it, so a copy is kept in the user's cache.
    """
    version = importlib.metadata.version("vl-convert-python")
    folder = user_cache()
    path = folder and folder / f"vega-{version}.js"
    if path and (text := _read_copy(path)):
        return text
    import vl_convert

    text = escape_script(vl_convert.javascript_bundle(SNIPPET)) + END
    keep(path, text)
    return text


def _read_copy(path: Path) -> str | None:
    """Return the script; None where there is none, or a damaged one."""
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return None
    return text if text.endswith(END) else None


def datatables() -> tuple[str, str]:
    """Return DataTables as the text of a JavaScript module, and its style."""
    # importing itables imports pandas, and only its two files are needed
    spec = importlib.util.find_spec("itables")
    assert spec
    assert spec.origin
    folder = Path(spec.origin).parent / "html"
    script = (folder / "dt_bundle.js").read_text()
    return escape_script(script), (folder / "dt_bundle.css").read_text()


def escape_script(text: str) -> str:
    r"""Write </script as <\/script, which means the same in JavaScript's strings."""
    return SCRIPT_END.sub(r"<\\/\1", text)
