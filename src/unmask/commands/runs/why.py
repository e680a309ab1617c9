"""src/runs.py why: which config key, parent or code made a fingerprint another."""

from typing import Any

import yaml

from unmask.commands.composition import Composer
from unmask.commands.runs.names import find_record
from unmask.commands.runs.output import NO_VALUE, Column, print_line, print_table
from unmask.commands.runs.request import Request
from unmask.config.checks import ConfigError, check
from unmask.config.dials import LOADER, flatten, format_value
from unmask.config.keys import known_keys
from unmask.config.overrides import check_overrides, config_groups
from unmask.stages.fingerprint import StageSpec
from unmask.stages.plan import make_plan
from unmask.stages.records import Ledger, RunRecord

COLUMNS = (
    Column("in the fingerprint", "key"),
    Column("first", "first", folds=True),
    Column("second", "second", folds=True),
)
# a stage and what its parents depend on, nearest first: names, and science by key
Lineage = list[tuple[str, dict[str, Any]]]


def why(request: Request, ledger: Ledger) -> None:
    """Print what differs in what two fingerprints are made of."""
    first = find_record(ledger, request.words[0])
    second: RunRecord | StageSpec
    if len(request.words) == 2:
        if request.overrides:
            raise ConfigError(
                f"why {' '.join(request.words)} {request.overrides[0]}: give a second"
                " stage, or overrides of a run, not both"
            )
        second = find_record(ledger, request.words[1])
    else:
        second = _planned(first, request)
    print_line(f"first   {first.key}  {first.name}")
    print_line(f"second  {second.key}  {_name(second)}")
    differs = _differences(_lineage(first, ledger), _lineage_of(second, ledger))
    if differs:
        print_table(COLUMNS, differs)
    elif first.fingerprint == second.fingerprint:
        print_line("one fingerprint: they are the same stage")
    else:
        print_line("what the second was made of is not recorded: its parent is gone")
    _print_code(first, second)


def _name(stage: RunRecord | StageSpec) -> str:
    return stage.name if isinstance(stage, RunRecord) else f"{stage.title}, as typed"


def _planned(record: RunRecord, request: Request) -> StageSpec:
    """Return the stage of that kind and start in the run that the overrides ask for."""
    overrides = list(request.overrides)
    check_overrides(overrides, [*known_keys(), *config_groups()])
    if not any(override.startswith("stages=") for override in overrides):
        overrides.append(f"stages=[{record.kind}]")
    plan = make_plan(check(Composer()(overrides)))
    same = [spec for spec in plan.stages if spec.kind == record.kind]
    for spec in same:
        if spec.start == record.start:
            return spec
    starts = ", ".join(f"{spec.kind} from {spec.start} weights" for spec in plan.stages)
    raise ConfigError(
        f"{' '.join(request.overrides)}: no {record.kind} from {record.start} weights"
        f" among the stages of this run ({starts}); add controls= or stages="
    )


def _lineage_of(stage: RunRecord | StageSpec, ledger: Ledger) -> Lineage:
    if isinstance(stage, RunRecord):
        return _lineage(stage, ledger)
    own = (stage.kind, flatten(stage.science))
    return [own, *(_lineage_of(stage.parent, ledger) if stage.parent else [])]


def _lineage(record: RunRecord, ledger: Ledger) -> Lineage:
    own = (record.kind, flatten(_read_science(record)))
    parent = ledger.by_key.get(record.parent or "")
    return [own, *(_lineage(parent, ledger) if parent else [])]


def _read_science(record: RunRecord) -> dict[str, Any]:
    """Return what the fingerprint was made of, as config.yaml keeps it."""
    try:
        content = yaml.load((record.folder / "config.yaml").read_text(), LOADER)
        return dict(content["science"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{record.folder}/config.yaml cannot be read ({type(error).__name__}); the"
            " same command writes it again"
        ) from None


def _differences(first: Lineage, second: Lineage) -> list[dict[str, str]]:
    """Return a row for each key that differs, in the stages or in their parents."""
    rows = []
    for i in range(max(len(first), len(second))):
        # a stage without such a parent has none of its keys
        one = first[i] if i < len(first) else ("", {})
        two = second[i] if i < len(second) else ("", {})
        place = "" if i == 0 else f"{one[0] or two[0]}: "
        for key in dict.fromkeys([*one[1], *two[1]]):
            if one[1].get(key) != two[1].get(key):
                rows.append(
                    {
                        "key": f"{place}{key}",
                        "first": _text(one[1], key),
                        "second": _text(two[1], key),
                    }
                )
    return rows


def _text(science: dict[str, Any], key: str) -> str:
    return format_value(science[key]) if key in science else NO_VALUE


def _print_code(first: RunRecord, second: RunRecord | StageSpec) -> None:
    """Print the files whose code differs between two results.

    They are no part of a fingerprint, unless a version in it was raised.
    """
    if not isinstance(second, RunRecord):
        return
    sources = [(record.result or {}).get("sources") for record in (first, second)]
    if not all(sources):
        return
    codes = [{name: text.split()[0] for name, text in s.items()} for s in sources if s]
    # what one of the two did not import is no difference
    changed = [n for n, code in codes[0].items() if codes[1].get(n, code) != code]
    if changed:
        print_line(f"code that differs, and is in no fingerprint: {', '.join(changed)}")
