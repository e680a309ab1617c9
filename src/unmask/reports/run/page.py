"""The page of one run: a self-contained HTML file.

It shows pictures, measurements beside their controls, and the loss curve.
"""

from pathlib import Path

from unmask.reports.run.tables import Result
from unmask.stages.fingerprint import digest
from unmask.stages.plan import Plan
from unmask.storage.atomic import write_text


def write_page(plan: Plan, results: list[Result], command: str, refresh: bool) -> Path:
    """Write runs/pages/<digest of the stages>.html, and return its path.

    A page that is there stays as it is unless `refresh` says that results are new.
    """
    config = plan.config
    name = digest({"stages": [spec.fingerprint for spec in plan.stages]})
    path = Path(config.runs_dir) / "pages" / f"{name}.html"
    if path.exists() and not refresh:
        return path
    # These import torch and matplotlib: a command whose stages are all finished has
    # returned above, without waiting seconds for them.
    import jinja2

    from unmask.reports.run.content import page_content

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    content = page_content(plan, results, command)
    text = environment.get_template("page.html.j2").render(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two cells of a sweep may write the same page at once.
    write_text(path, text)
    return path
