"""Fill in the templates of pages and of texts."""

from pathlib import Path
from typing import Any

# with what all pages share: their style
SHARED = Path(__file__).parent


def render(template: Path, **content: Any) -> str:
    """Fill in a template; values are escaped where it is one of HTML."""
    # Importing it takes a second, which other commands need not spend.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, SHARED]),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(content)
