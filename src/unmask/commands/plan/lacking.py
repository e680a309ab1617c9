"""What of a run the ledger has already, so that only the rest is priced."""

from pathlib import Path

from unmask.commands.units import count_noun, format_duration
from unmask.config.checks import ConfigError
from unmask.config.schema import Config
from unmask.stages.drift import kept_results
from unmask.stages.fingerprint import StageSpec
from unmask.stages.plan import Listings, Plan, make_plan, stages_without_data


class LedgerStages:
    """Find the stages of runs; images of one data set are listed once.

    finished: the seconds that each stage took that the ledger has, by its fingerprint.
    """

    def __init__(self, reads_ledger: bool) -> None:
        self.reads_ledger = reads_ledger
        self.finished: dict[str, float] = {}
        self.listings = Listings()

    def lacking(self, config: Config, dataset: str) -> list[StageSpec]:
        """Return the stages of a run that the ledger lacks, in order.

        dataset: a name of the images, which need not be here; the ledger then knows
        only stages of data sets that come as arrays.
        """
        if not self.reads_ledger or not Path(config.runs_dir).is_dir():
            return list(stages_without_data(config, dataset))
        try:
            plan = make_plan(config, self.listings.of(config), needs_range=False)
        # images that are missing, or not as they should be, have a price as well
        except ConfigError:
            stages = stages_without_data(config, dataset)
            plan = Plan(config, stages, (), None)
        results = kept_results(plan)
        for spec, result in results.items():
            if result:
                self.finished[spec.fingerprint] = result["seconds"]
        return [spec for spec, result in results.items() if result is None]

    def describe(self, num_lacking: int, runs_dir: str) -> str | None:
        """Say what the ledger has of all stages; None where it has nothing."""
        if not self.finished:
            return None
        num = len(self.finished)
        took = format_duration(sum(self.finished.values()))
        text = f"{runs_dir} has {num} of {count_noun(num + num_lacking, 'stage')}"
        text += f" already, which took {took};"
        if not num_lacking:
            return f"{text} nothing is left to pay. lacking=false prices all of them."
        return f"{text} this is the price of the rest. lacking=false prices all."
