"""What the ledger holds: a record of each stage, for lists, pages and dashboards.

Reading changes nothing, and imports no torch.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from unmask.config.dials import LOADER, Dials, format_value, read_dials
from unmask.config.recipes import STAGES
from unmask.stages.encoders import encoder_name
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import LedgerError, read_result, text_hash
from unmask.stages.measures import Measure, Result, main_measure
from unmask.stages.origin import Origin, read_origin_file
from unmask.stages.progress import (
    Progress,
    State,
    read_owner,
    read_progress,
    unfinished_state,
)
from unmask.stages.scope import stage_dials, stage_seed
from unmask.stages.sweeps import Sweep, TableRow, read_sweeps

# of a classifier, image by image
PREDICTIONS_FILE = "predictions.csv"
CONFIG_KEY = "\nconfig:\n"
# dials whose value is a place: their names show the last part of it
PLACES = ("data.root", "robustness.root", "init_from", "tokenizer.file")


@dataclass(frozen=True)
class RunRecord:
    """One stage of the ledger.

    title: of its kind, such as "kNN, random encoder". start: the weights it starts
    from. parent: "kind/fingerprint" of the stage that made them, None where none did or
    nobody recorded it. config: the resolved one of the run. dials: what differs from
    the default in all that the result depends on, the seed left out. seed: None where
    all seeds share the stage. damage: why result.json cannot be read.
    encoder: what is measured, in a word: the first digits of a pretraining, the name of
    given weights, "random weights" or "raw pixels"; None where nothing is measured.
    """

    folder: Path
    kind: str
    fingerprint: str
    title: str
    start: str
    parent: str | None
    config: dict[str, Any]
    dials: dict[str, Any]
    seed: int | None
    state: State
    result: Result | None
    damage: str | None
    origin: Origin
    progress: Progress | None
    owner: dict[str, Any]
    started: datetime | None
    sweeps: tuple[str, ...]
    tables: tuple[TableRow, ...]
    encoder: str | None = None

    @property
    def key(self) -> str:
        """Return "kind/fingerprint", the folder below runs_dir."""
        return f"{self.kind}/{self.fingerprint}"

    @property
    def differs(self) -> str:
        """Return the dials as they are typed, such as "mask_ratio=0.9 s1"."""
        words = [f"{key}={_short(key, value)}" for key, value in self.dials.items()]
        return " ".join([*words, *([] if self.seed is None else [f"s{self.seed}"])])

    @property
    def name(self) -> str:
        """Return a title for people, such as "pretrain mask_ratio=0.9 s1"."""
        return f"{self.title} {self.differs}".strip()

    @property
    def measure(self) -> Measure | None:
        """Return the number that the stage is about, once it is finished."""
        return main_measure(self.result) if self.result else None

    @property
    def metrics(self) -> dict[str, float]:
        return self.result["metrics"] if self.result else {}

    @property
    def curves(self) -> Path | None:
        """Return the metrics log; None for stages that write none."""
        path = self.folder / "metrics.jsonl"
        return path if path.exists() else None

    @property
    def ended(self) -> datetime | None:
        return _parse_time((self.result or {}).get("finished"))

    @property
    def seconds(self) -> float | None:
        """Return what the stage cost, over all attempts."""
        return self.result["seconds"] if self.result else None

    @property
    def sweep(self) -> str | None:
        """Return the id of the sweep that made it, or of the last that uses it."""
        made_by = self.origin.sweep
        return made_by or (self.sweeps[-1] if self.sweeps else None)

    @property
    def experiment(self) -> str | None:
        """Return the paper's table, or the experiment of one run, that it is of."""
        return self.tables[0][0] if self.tables else self.origin.experiment

    @property
    def cell(self) -> str | None:
        """Return the row of the paper's table that it fills."""
        return self.tables[0][1] if self.tables else None

    @cached_property
    def bytes(self) -> int:
        """Return the size of all files in the folder."""
        return sum(size for _, size in files_with_sizes(self.folder))


@dataclass(frozen=True)
class Ledger:
    """Hold all stages of runs_dir, in the order of their beginning, and all sweeps."""

    runs_dir: Path
    records: tuple[RunRecord, ...]
    sweeps: tuple[Sweep, ...]

    @cached_property
    def by_key(self) -> dict[str, RunRecord]:
        return {record.key: record for record in self.records}

    def sweeps_named(self, prefix: str) -> list[Sweep]:
        """Return the sweeps whose id begins so."""
        return [sweep for sweep in self.sweeps if sweep.id.startswith(prefix)]

    def children(self, record: RunRecord) -> list[RunRecord]:
        """Return the stages that start from this one, or measure it."""
        return [other for other in self.records if other.parent == record.key]

    def descendants(self, record: RunRecord) -> list[RunRecord]:
        """Return the children, theirs, and so on."""
        found = []
        for child in self.children(record):
            found += [child, *self.descendants(child)]
        return found


def read_ledger(runs_dir: str | Path) -> Ledger:
    """Read all stages and sweeps; an empty ledger where the folder is missing."""
    root = Path(runs_dir)
    sweeps = read_sweeps(root)
    uses = uses_of(sweeps)
    records = [
        record
        for folder in stage_folders(root)
        if (record := read_record(folder, *uses.get(folder_key(folder), ((), ()))))
    ]
    known = {record.fingerprint: record.key for record in records}
    # results name their parent by its fingerprint alone
    records = [_with_parent(record, known) for record in records]
    parents = {record.key: record.parent for record in records}
    records = [
        replace(r, encoder=encoder_name(r.key, r.start, r.config, parents))
        for r in records
    ]
    records.sort(key=lambda record: (_timestamp(record.started), record.key))
    return Ledger(root, tuple(records), tuple(sweeps))


def stage_folders(runs_dir: Path) -> Iterator[Path]:
    """Yield the folder of each stage in the ledger."""
    for kind in STAGES:
        try:
            with os.scandir(runs_dir / kind) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir())
        except OSError:
            continue
        yield from (runs_dir / kind / name for name in names)


def folder_key(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def read_record(
    folder: Path,
    sweeps: tuple[str, ...] = (),
    tables: tuple[TableRow, ...] = (),
) -> RunRecord | None:
    """Read one stage; None where the folder has no config, so that nothing was begun.

    sweeps, tables: of the sweeps that name the stage.
    """
    try:
        text = (folder / "config.yaml").read_text()
        config, dials = _read_config(folder, text)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    kind = folder.parent.name
    result, damage = _read_result(folder)
    origin = read_origin_file(folder)
    owner = read_owner(folder)
    progress = None if result else read_progress(folder)
    state: State = "done" if result else "damaged"
    if not result and not damage:
        state = unfinished_state(folder, progress)
    facts = origin | (result or {})
    start = facts.get("start") or _start(kind, text)
    return RunRecord(
        folder=folder,
        kind=kind,
        fingerprint=folder.name,
        title=facts.get("title") or StageSpec(kind, start, _recipe(kind, config)).title,
        start=start,
        parent=origin.get("parent") or facts.get("parent"),
        config=config,
        dials=stage_dials(dials, kind, start, config),
        seed=stage_seed(kind, start, config),
        state=state,
        result=result,
        damage=damage,
        origin=Origin(tuple(origin.get("overrides", ())), origin.get("sweep")),
        progress=progress,
        owner=owner,
        started=_parse_time(origin.get("started")) or _first_known(result, owner),
        sweeps=sweeps,
        tables=tables,
    )


def pictures_by_epoch(stage: Path) -> dict[int, Path]:
    """Return the reconstructions in a stage's folder, the earliest first.

    Other files of such a name are left out.
    """
    pictures = {}
    for path in (stage / "pictures").glob("epoch=*.png"):
        with suppress(ValueError):
            pictures[int(path.stem.removeprefix("epoch="))] = path
    return dict(sorted(pictures.items()))


def files_with_sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the path of each file below the folder, relative to it, and its bytes."""
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            entries = list(os.scandir(folder / below))
        except OSError:
            continue
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{name}/")
                continue
            try:
                yield name, entry.stat(follow_symlinks=False).st_size
            except OSError:
                # removed meanwhile: its process replaces files
                continue


def _read_config(folder: Path, text: str) -> tuple[dict[str, Any], Dials]:
    """Return the config, and its dials; text: of config.yaml.

    Raises ValueError, or an error of yaml, where it is damaged.
    """
    key = text_hash(text.partition(CONFIG_KEY)[2])
    if key not in _configs:
        config = _read_copy(folder, text)
        if config is None:
            config = yaml.load(text.partition(CONFIG_KEY)[2], LOADER)
        if not isinstance(config, dict):
            raise ValueError(f"the config is {config!r}, not a section")
        _configs[key] = config, read_dials(config)
    return _configs[key]


# by the hash of their text: all stages of a run have the same
_configs: dict[str, tuple[dict[str, Any], Dials]] = {}


def _read_copy(folder: Path, text: str) -> Any:
    """Return the config of config.json; None where it is not that of config.yaml."""
    try:
        copy = json.loads((folder / "config.json").read_text())
        return copy["config"] if copy["of"] == text_hash(text) else None
    except (OSError, ValueError, TypeError, KeyError):
        # versions before 0.2 wrote none
        return None


def _read_result(folder: Path) -> tuple[Result | None, str | None]:
    try:
        return read_result(folder), None
    except LedgerError as error:
        return None, str(error)


def _start(kind: str, text: str) -> str:
    """Return the weights that a stage starts from, from the science in config.yaml."""
    science = text.partition(CONFIG_KEY)[0]
    if found := re.search(r"^  start: (\w+)$", science, re.MULTILINE):
        return found[1]
    if kind == "pretrain":
        is_given = re.search(r"^  weights:", science, re.MULTILINE)
        return "given" if is_given else "random"
    return "images" if STAGES[kind].role == "target" else "pretrained"


def _recipe(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": config.get(kind) or {}}


def _short(key: str, value: Any) -> str:
    text = format_value(value)
    return text.rstrip("/").rpartition("/")[2] if key in PLACES else text


def _parse_time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _first_known(result: Result | None, owner: dict[str, Any]) -> datetime | None:
    """Return when a stage of an early version began, as far as that is known."""
    finished = _parse_time((result or {}).get("finished"))
    if result and finished:
        return finished - timedelta(seconds=result["seconds"])
    return _parse_time(owner.get("since"))


def _timestamp(time: datetime | None) -> float:
    return time.timestamp() if time else 0.0


def uses_of(
    sweeps: Iterable[Sweep],
) -> dict[str, tuple[tuple[str, ...], tuple[TableRow, ...]]]:
    """Return, of each stage, the sweeps that name it and the rows that it is of."""
    ids: dict[str, dict[str, None]] = {}
    rows: dict[str, dict[TableRow, None]] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            for key in (*cell.weights, *cell.stages):
                ids.setdefault(key, {})[sweep.id] = None
                rows.setdefault(key, {}).update(dict.fromkeys(cell.tables))
    return {key: (tuple(ids[key]), tuple(rows[key])) for key in ids}


def _with_parent(record: RunRecord, known: dict[str, str]) -> RunRecord:
    if not record.parent or "/" in record.parent:
        return record
    parent = known.get(record.parent, f"?/{record.parent}")
    return replace(record, parent=parent)
