"""Spend seeds on the claims of tables, round by round, until they are decided.

Each round brings rows to their next look; which rows go on follows from what earlier
rounds have shown and taken. The ledger holds both, so that a campaign that was killed
goes on as if it had not been.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from unmask.config.checks import ConfigError
from unmask.config.experiments import Cell, experiment_cells, read_paper
from unmask.config.schema import Scale
from unmask.reports.paper.claims import JudgedClaim, Judging
from unmask.reports.paper.collect import CollectedResults, add_results
from unmask.reports.paper.comparison import judge_claims
from unmask.reports.paper.result_rows import KeptResults, has_kept_results
from unmask.reports.paper.rounds import is_futile, next_counts
from unmask.reports.paper.sequential import SpentLevel
from unmask.stages.drift import kept_results
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan

# of one cell, as typed; without its seed it names the row in all tables that share it
Overrides = tuple[str, ...]
HOUR = 3600


class Limits(NamedTuple):
    """How much may be spent: seeds of a row, and hours of computing of all cells."""

    seeds: int
    hours: float | None = None


class Taken(NamedTuple):
    """What a finished stage of a row has taken."""

    row: Overrides
    spec: StageSpec
    seconds: float


class Means(NamedTuple):
    """What stages of earlier rounds took on average, in seconds."""

    # by row, kind and start
    of_row: Mapping[tuple[Overrides, str, str], float]
    # by kind, for a row of which nobody knows
    of_kind: Mapping[str, float]


@dataclass
class Campaign:
    """Decide the claims of these tables at one scale.

    more: overrides of every cell. plan: checks cells and returns their plans. launch:
    runs cells, and returns when all are finished. kept: results that need no run.
    """

    slugs: Sequence[str]
    scale: Scale
    more: Overrides
    limits: Limits
    plan: Callable[[Sequence[Cell]], Mapping[Overrides, Plan]]
    launch: Callable[[Sequence[Cell]], object]
    kept: KeptResults = field(default_factory=dict)
    say: Callable[[str], object] = print
    plans: dict[Overrides, Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rule = SpentLevel(tuple(self.scale.looks))
        if self.limits.seeds not in self.scale.looks:
            raise ConfigError(
                f"seeds_max = {self.limits.seeds}: scale={self.scale.name} judges after"
                f" {', '.join(map(str, self.scale.looks))} seeds a row; give one of"
                " these"
            )
        rows = [row_of(cell) for cell in self._cells([0])]
        if not rows:
            raise ConfigError(
                f"scale={self.scale.name} leaves out every row of"
                f" {', '.join(self.slugs)}; choose another experiment or scale"
            )
        self.rows = list(dict.fromkeys(rows))

    def run(self) -> dict[str, list[JudgedClaim]]:
        """Return the claims of each table, judged after the last round.

        Raises ConfigError for cells that cannot be, and where the hours do not suffice
        for the first look.
        """
        counts = self._first_look()
        while True:
            self._make(counts)
            judged = self.judge(counts)
            wanted, left = self._next(counts, judged)
            self._say_look(judged, counts, wanted, left)
            if wanted == counts:
                return judged
            counts = wanted

    def _first_look(self) -> dict[Overrides, int]:
        """Return the seeds of the first look; with hours=, seed 0 tells the price."""
        counts = dict.fromkeys(self.rows, self.rule.looks[0])
        if self.limits.hours is not None:
            one = dict.fromkeys(self.rows, 1)
            self._make(one)
            needed = self.spent(one) + self.cost(one, counts)
            if needed > self.limits.hours * HOUR:
                raise ConfigError(
                    f"hours = {self.limits.hours:g}: {self.rule.looks[0]} seeds of each"
                    f" of {len(self.rows)} rows, the first look, take about"
                    f" {needed / HOUR:.2g} hours of computing; give at least that, or"
                    " fewer tables"
                )
        return counts

    def _make(self, counts: Mapping[Overrides, int]) -> None:
        """Run what is neither finished nor kept."""
        missing: dict[Overrides, list[Cell]] = defaultdict(list)
        for cell in self.cells(counts):
            plan = self.plans[cell.overrides]
            is_kept = has_kept_results(plan, cell.slug, cell.row, self.kept)
            if None in kept_results(plan).values() and not (self.kept and is_kept):
                missing[cell.overrides].append(cell)
        if missing:
            self.launch([cell for cells in missing.values() for cell in cells])

    def judge(self, counts: Mapping[Overrides, int]) -> dict[str, list[JudgedClaim]]:
        """Return the claims of each table by the first seeds of its rows."""
        cells = self.cells(counts)
        judging = Judging.at(self.scale)
        judged = {}
        for slug in self.slugs:
            paper = read_paper(slug)
            collected = CollectedResults()
            for cell in cells:
                if cell.slug == slug:
                    plan = self.plans[cell.overrides]
                    add_results(collected, cell, plan, paper, self.kept)
            made = {cell.row for cell in cells if cell.slug == slug}
            omitted = [row.row for row in paper.rows if row.row not in made]
            judged[slug] = judge_claims(paper, collected.rows, judging, omitted)
        return judged

    def _next(
        self, counts: dict[Overrides, int], judged: Mapping[str, Sequence[JudgedClaim]]
    ) -> tuple[dict[Overrides, int], int]:
        """Return the seeds of the next round, and of how many claims it is too dear.

        The claims that are likeliest to be decided come first.
        """
        wanted = dict(counts)
        too_dear = 0
        open_claims = [
            (slug, claim)
            for slug in self.slugs
            for claim in judged[slug]
            if claim.outlook and not is_futile(claim, self.rule)
        ]
        spent = self.spent(counts) if self.limits.hours is not None else 0.0
        for slug, claim in sorted(open_claims, key=lambda each: -_chance(each[1])):
            trial = self._with_next_look(wanted, counts, slug, claim)
            if self.limits.hours is not None:
                needed = spent + self.cost(counts, trial)
                if needed > self.limits.hours * HOUR:
                    too_dear += 1
                    continue
            wanted = trial
        return wanted, too_dear

    def _with_next_look(
        self,
        wanted: dict[Overrides, int],
        counts: dict[Overrides, int],
        slug: str,
        claim: JudgedClaim,
    ) -> dict[Overrides, int]:
        """Return `wanted` with the seeds that the claim's next look takes."""
        rows = {
            cell.row: row_of(cell) for cell in self._cells([0]) if cell.slug == slug
        }
        now = {row: counts[shared] for row, shared in rows.items()}
        then = next_counts(now, [claim], self.rule, self.limits.seeds)
        more = {rows[row]: count for row, count in then.items()}
        return {row: max(count, more.get(row, 0)) for row, count in wanted.items()}

    def cells(self, counts: Mapping[Overrides, int]) -> list[Cell]:
        """Return the cells of so many seeds of each row, all of them planned."""
        cells = [
            cell
            for cell in self._cells(list(range(max(counts.values()))))
            if cell.seed < counts[row_of(cell)]
        ]
        unknown = [cell for cell in cells if cell.overrides not in self.plans]
        if unknown:
            self.plans |= self.plan(unknown)
        return cells

    def _cells(self, seeds: list[int]) -> list[Cell]:
        return [
            cell._replace(overrides=(*cell.overrides, *self.more))
            for slug in self.slugs
            for cell in experiment_cells(slug, self.scale, seeds)
        ]

    def spent(self, counts: Mapping[Overrides, int]) -> float:
        """Return the seconds that the ledger's stages of these cells have taken."""
        return sum(
            {t.spec.fingerprint: t.seconds for t in self._taken(counts)}.values()
        )

    def cost(
        self, counts: Mapping[Overrides, int], wanted: Mapping[Overrides, int]
    ) -> float:
        """Return how many seconds the cells beyond `counts` will take.

        It is judged by the earlier rounds alone, so that a round that was killed is
        chosen again as it was.
        """
        means = self._means(counts)
        done = {spec.fingerprint for _, spec in self._stages(counts)}
        new = {
            spec.fingerprint: (row, spec)
            for row, spec in self._stages(wanted)
            if spec.fingerprint not in done
        }
        return sum(
            means.of_row.get(
                (row, spec.kind, spec.start), means.of_kind.get(spec.kind, 0.0)
            )
            for row, spec in new.values()
        )

    def _means(self, counts: Mapping[Overrides, int]) -> Means:
        of_row: dict[tuple[Overrides, str, str], list[float]] = defaultdict(list)
        of_kind: dict[str, list[float]] = defaultdict(list)
        for row, spec, seconds in self._taken(counts):
            of_row[row, spec.kind, spec.start].append(seconds)
            of_kind[spec.kind].append(seconds)
        return Means(
            {key: fmean(values) for key, values in of_row.items()},
            {key: fmean(values) for key, values in of_kind.items()},
        )

    def _taken(self, counts: Mapping[Overrides, int]) -> list[Taken]:
        """Return what each finished stage has taken."""
        results = [
            (row, spec, StageFolder(self.runs_dir, spec).result())
            for row, spec in self._stages(counts)
        ]
        return [
            Taken(row, spec, float(result["seconds"]))
            for row, spec, result in results
            if result
        ]

    def _stages(
        self, counts: Mapping[Overrides, int]
    ) -> Iterable[tuple[Overrides, StageSpec]]:
        for cell in self.cells(counts):
            for spec in self.plans[cell.overrides].stages:
                yield row_of(cell), spec

    @property
    def runs_dir(self) -> str:
        return next(iter(self.plans.values())).config.runs_dir

    def _say_look(
        self,
        judged: Mapping[str, Sequence[JudgedClaim]],
        counts: Mapping[Overrides, int],
        wanted: Mapping[Overrides, int],
        too_dear: int,
    ) -> None:
        """Say what is decided, what goes on, and why the rest does not."""
        claims = [claim for each in judged.values() for claim in each]
        verdicts = Counter(claim.verdict for claim in claims)
        texts = [f"{count} {verdict}" for verdict, count in verdicts.items()]
        made = len({cell.overrides for cell in self.cells(counts)})
        noun = "claim" if len(claims) == 1 else "claims"
        self.say(f"after {made} cells, of {len(claims)} {noun}: {', '.join(texts)}")
        seen = [claim.outlook.seeds if claim.outlook else 0 for claim in claims]
        ended = sum(seeds >= self.limits.seeds for seeds in seen)
        futile = sum(
            is_futile(claim, self.rule)
            for claim, seeds in zip(claims, seen, strict=True)
            if seeds < self.limits.seeds
        )
        for count, reason in (
            (ended, f"the last look, after {self.limits.seeds} seeds a row, has been"),
            (futile, "the looks to come would hardly tell"),
            (too_dear, f"hours={self.limits.hours} do not suffice"),
        ):
            if count:
                self.say(f"{count} {'is' if count == 1 else 'are'} left open: {reason}")
        if wanted != counts:
            more = sum(wanted.values()) - sum(counts.values())
            rows = sum(wanted[row] > count for row, count in counts.items())
            hours = self.cost(counts, wanted) / HOUR
            price = f", about {hours:.2g} hours of computing" if hours else ""
            self.say(f"{rows} of {len(counts)} rows go on: {more} cells{price}")
            return
        full = self.limits.seeds * len(counts)
        self.say(
            f"finished with {made} cells; {full} are {self.limits.seeds} of each row"
        )


def row_of(cell: Cell) -> Overrides:
    """Return what cells of one row have in common, in all tables that share it."""
    return tuple(each for each in cell.overrides if not each.startswith("seed="))


def _chance(claim: JudgedClaim) -> float:
    """Return the chance of a verdict; a claim that nobody can tell of comes first."""
    chance = claim.outlook.chance if claim.outlook else 0.0
    return chance if chance == chance else 1.0
