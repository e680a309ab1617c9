"""Send workspaces and reports to W&B; sent again, they change, by the ids kept here."""

import json
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from unmask.storage.atomic import write_json

FILE = "saved.json"


class Saved:
    """Keep the ids of what was sent, in the ledger: by entity and project."""

    def __init__(self, folder: Path, entity: str, project: str) -> None:
        self.path = folder / FILE
        content = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.content: dict[str, dict[str, Any]] = content
        self.ids = self.content.setdefault(f"{entity}/{project}", {})

    def save_workspace(self, workspace: ws.Workspace) -> str:
        """Send the workspace, in place of the one that was sent before."""
        known = self.ids.get("workspace", {})
        workspace._internal_id = known.get("id", "")
        workspace._internal_name = known.get("name", "")
        workspace.save()
        self._remember(
            "workspace",
            {"id": workspace._internal_id, "name": workspace._internal_name},
        )
        return workspace.url

    def save_report(self, name: str, report: wr.Report) -> str:
        """Send a report, in place of the one of that name that was sent before."""
        report.id = self.ids.get(name, {}).get("id", "")
        report.save()
        self._remember(name, {"id": report.id})
        return report.url

    def _remember(self, name: str, ids: dict[str, str]) -> None:
        # at once: what is sent after it may fail
        self.ids[name] = ids
        write_json(self.path, self.content)
