"""What dashboards call a stage: its name, its group and tags, what it depends on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unmask.config.dials import Dials
from unmask.config.experiments import EXPERIMENTS, read_paper
from unmask.config.overrides import override_key
from unmask.dashboards.names import stage_prefix
from unmask.stages.fingerprint import DATA_KEYS, PRETRAIN_KEYS
from unmask.stages.records import (
    PLACES,
    RunRecord,
    folder_key,
    read_record,
    uses_of,
)
from unmask.stages.scope import stage_dials
from unmask.stages.sweeps import read_sweeps

MAX_NAME = 128
MAX_TAG = 64


@dataclass(frozen=True)
class Card:
    """Describe a stage by its record.

    device: the kind of device that trains it. sweep: what is swept, and the sweep's id.
    typed: overrides of the run, and of all cells of its sweeps.
    """

    record: RunRecord
    device: str | None = None
    sweep: str | None = None
    typed: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def id(self) -> str:
        """Return the fingerprint: a stage is one run of a project."""
        return self.record.fingerprint

    @property
    def name(self) -> str:
        """Return what differs from the defaults: "pretrain mask_ratio=0.9 s1"."""
        return _cut(self.record.name, MAX_NAME)

    @property
    def prefix(self) -> str:
        """Return how the names of its metrics begin."""
        return stage_prefix(self.record.kind, self.record.start)

    @property
    def group(self) -> str:
        """Return the table of the paper, else the sweep, else the stage's parent."""
        record = self.record
        parent = (record.parent or "").rpartition("/")[2]
        named = record.experiment or self.sweep or parent
        return _cut(named or record.fingerprint, MAX_NAME)

    @property
    def tags(self) -> list[str]:
        """Return the scale, the experiments, and their names in the paper."""
        tables = [slug for slug, _ in self.record.tables]
        papers = [
            read_paper(slug).paper for slug in tables if (EXPERIMENTS / slug).is_dir()
        ]
        tags = [self.scale, self.record.experiment, *tables, *papers]
        return [_cut(tag, MAX_TAG) for tag in dict.fromkeys(tags) if tag]

    @property
    def scale(self) -> str | None:
        return (self.record.config.get("scale") or {}).get("name")

    @property
    def notes(self) -> str:
        return self.record.origin.command

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return what the result depends on, by the keys that a user types.

        What filters and charts name stands at the top: the stage, the table, and each
        dial as `dial.<key>`.
        """
        record = self.record
        facts = {
            "stage": record.kind,
            "start": record.start,
            "fingerprint": record.fingerprint,
            "parent": record.parent,
            "experiment": record.experiment,
            "cell": record.cell,
            # a run may be a row of several tables
            "table": dict(record.tables) or None,
            "sweep": self.sweep,
            "scale": self.scale,
            "seed": record.seed,
            "device": self.device,
        }
        known = {key: value for key, value in facts.items() if value is not None}
        return known | self._counted() | {"dial": nested(self.dials)}

    @cached_property
    def dials(self) -> dict[str, Any]:
        """Return what differs from the defaults, and what somebody has typed.

        A cell of a sweep that has the default value is charted with the others.
        """
        record = self.record
        typed = {}
        for override in self.typed:
            key = override_key(override)
            value = _look_up(record.config, key)
            # a section is a choice of a file: the record knows which
            if value is not None and not isinstance(value, dict):
                typed[key] = value
        scoped = stage_dials(Dials(typed, {}), record.kind, record.start, record.config)
        return {k: _without_folder(k, v) for k, v in (scoped | record.dials).items()}

    def picture(self, epoch: float | None) -> Path | None:
        """Return the reconstructions of an epoch, None where there are none (yet)."""
        if epoch is None:
            return None
        path = self.folder / "pictures" / f"epoch={round(epoch):04d}.png"
        return path if path.exists() else None

    def _counted(self) -> dict[str, Any]:
        """Return the sections of the config that the stage and its parents read."""
        config, kind, start = self.record.config, self.record.kind, self.record.start
        keys = [kind]
        if kind == "pretrain" or start == "pretrained":
            keys += [key for key in PRETRAIN_KEYS if key != "seed"]
        if kind == "robustness":
            keys.append(config[kind]["of"])
        if start != "pixels":
            keys.append("model")
        counted = {
            key: _without_folders(key, config[key])
            for key in keys
            if config.get(key) is not None
        }
        data = {key: config["data"].get(key) for key in ("source", *DATA_KEYS)}
        return counted | {"data": data, "precision": config["trainer"]["precision"]}


def read_card(folder: Path, device: str | None = None) -> Card:
    """Read what a stage's folder says of it.

    Raises FileNotFoundError where nothing was begun in it.
    """
    key = folder_key(folder)
    known = read_sweeps(folder.parent.parent)
    sweeps, tables = uses_of(known).get(key, ((), ()))
    record = read_record(folder, sweeps, tables)
    if record is None:
        raise FileNotFoundError(f"{folder}: no stage was begun here: no config.yaml")
    titles = [f"{s.title} ({s.id})" for s in known if s.id == record.sweep]
    cells = [cell for each in known if each.id in sweeps for cell in each.cells]
    typed = [override for cell in cells for override in cell.overrides]
    typed += record.origin.overrides
    return Card(record, device, next(iter(titles), None), tuple(typed))


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Return values by dotted keys as sections in sections.

    W&B finds no key with a point in it by a filter. A choice of a group that has
    dials of its own is their `name`.
    """
    sections: dict[str, Any] = {}
    for key, value in values.items():
        *above, last = key.split(".")
        section = sections
        for name in above:
            inner = section.get(name, {})
            section[name] = inner if isinstance(inner, dict) else {"name": inner}
            section = section[name]
        if isinstance(section.get(last), dict) and not isinstance(value, dict):
            section[last]["name"] = value
        else:
            section[last] = value
    return sections


def _without_folder(key: str, value: Any) -> Any:
    """Return the last part of a place: no folder of this machine is sent."""
    if key not in PLACES or not isinstance(value, str):
        return value
    return value.rstrip("/").rpartition("/")[2]


def _without_folders(section: str, content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {k: _without_folder(f"{section}.{k}", v) for k, v in content.items()}


def _look_up(config: dict[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None where there is none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
