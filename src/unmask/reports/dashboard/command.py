"""Write the workspace and reports of W&B, and send them where asked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unmask.commands.composition import Composer
from unmask.config.checks import ConfigError, check, fill_missing_roots
from unmask.config.experiments import expand_experiments, read_scale
from unmask.config.schema import Config
from unmask.dashboards.wandb_run import short_reason
from unmask.reports.dashboard.arguments import Dashboard
from unmask.reports.paper.arguments import Report
from unmask.storage.atomic import write_json

# where a workspace or report is for no account yet
NO_ENTITY = "entity"


def make_dashboards(arguments: Dashboard) -> None:
    """Write the specs, send them with save=true, and print where they are."""
    slugs = expand_experiments(arguments.experiment) if arguments.experiment else []
    scale = read_scale(arguments.scale).name
    folder = Path(arguments.out or Path(arguments.runs_dir) / "dashboards")
    entity = arguments.entity or (_own_entity() if arguments.save else NO_ENTITY)

    # pandas and matplotlib take seconds
    from unmask.reports.dashboard.experiment_report import experiment_report
    from unmask.reports.dashboard.saving import Saved
    from unmask.reports.dashboard.workspace import project_workspace
    from unmask.reports.paper.findings import collect_findings

    composer = Composer()

    def compose(overrides: Sequence[str]) -> Config:
        return check(fill_missing_roots(composer(overrides)))

    workspace = project_workspace(entity, arguments.project)
    _write(folder / "workspace.json", workspace._to_model())
    saved = Saved(folder, entity, arguments.project)
    if arguments.save:
        with _explained(saved.path):
            print(saved.save_workspace(workspace))
    for slug in slugs:
        for finding in collect_findings(_report_arguments(slug, arguments), compose):
            report = experiment_report(finding, entity, arguments.project)
            name = f"{slug}-{scale}"
            _write(folder / f"{name}.json", report._to_model())
            if arguments.save:
                with _explained(saved.path):
                    print(saved.save_report(name, report))
    if not arguments.save:
        print(
            f"{folder.resolve()}: the workspace and the reports, as W&B's JSON;"
            " save=true sends them"
        )


def _report_arguments(slug: str, arguments: Dashboard) -> Report:
    """Return what src/report.py would be given for this table."""
    return Report(
        experiment=slug,
        scale=arguments.scale,
        runs_dir=arguments.runs_dir,
        out=None,
        keep=False,
        anytime=False,
        seeds=None,
        overrides=[],
        format=["svg"],
    )


def _own_entity() -> str:
    """Return the entity of the account; ConfigError where nobody is logged in."""
    import wandb

    try:
        entity = wandb.Api().default_entity
    # wandb raises errors of its own, of requests and of its service
    except Exception as error:
        raise ConfigError(
            f"save=true: W&B cannot be asked ({short_reason(error)}); log in with"
            " `wandb login`, or leave it out: the specs are written without an account"
        ) from None
    if not entity:
        raise ConfigError("save=true: the W&B account has no entity; add entity=...")
    return str(entity)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise OSError(
            f"W&B did not take it ({short_reason(error)}); where it was deleted there,"
            f" remove {path}: all are sent as new ones then"
        ) from None


def _write(path: Path, model: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, model.model_dump(by_alias=True, mode="json", exclude_none=True))
