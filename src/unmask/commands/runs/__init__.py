"""The terminal's view of the ledger: find, compare, watch and remove runs."""

from unmask.commands.runs.compare import compare
from unmask.commands.runs.listing import list_stages
from unmask.commands.runs.remove import prune, remove
from unmask.commands.runs.request import Answer, Runs, parse_request
from unmask.commands.runs.show import show
from unmask.commands.runs.sizes import print_sizes
from unmask.commands.runs.status import status
from unmask.commands.runs.why import why
from unmask.stages.records import read_ledger

ANSWERS: dict[str, Answer] = {
    "list": list_stages,
    "show": show,
    "compare": compare,
    "status": status,
    "why": why,
    "du": print_sizes,
    "rm": remove,
    "prune": prune,
}


def run(typed: list[str], **others: Answer) -> None:
    """Do what was typed; SystemExit with the code of `status until=...`.

    others: answers to verbs that need the reports.
    """
    request = parse_request(typed)
    answer = (ANSWERS | others)[request.verb]
    code = answer(request, read_ledger(request.options.runs_dir))
    if code is not None:
        raise SystemExit(code)


__all__ = ["Runs", "run"]
