"""The page of one run: pictures, measurements beside their controls, the loss curve; one self-contained file."""

from pathlib import Path

from unmask.durable import write_text
from unmask.reports.tables import Result
from unmask.runs.fingerprint import digest
from unmask.runs.plan import Plan


def write_page(plan: Plan, results: list[Result], command: str, refresh: bool) -> Path:
    """runs/pages/<digest of the stages>.html; kept as it is unless something new is to be shown."""
    config = plan.config
    name = digest({"stages": [spec.fingerprint for spec in plan.stages]})
    path = Path(config.runs_dir) / "pages" / f"{name}.html"
    if path.exists() and not refresh:
        return path
    import jinja2  # these take a second: a command that finds all finished does without

    from unmask.reports.content import page_content

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("page.html.j2").render(page_content(plan, results, command))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)  # two cells of a sweep may write the same page
    return path
