"""The table at the end of a soak."""

from rich.console import Console
from rich.table import Table

from soak.driver import Outcome


def show(outcome: Outcome, seed: int, console: Console) -> None:
    table = Table("fault", "times", title=f"Soak, seed {seed}")
    for kind in outcome.kinds:
        table.add_row(kind, str(outcome.num_faults[kind]))
    table.add_section()
    table.add_row("all faults", str(outcome.num_faults.total()))
    table.add_row("minutes under faults", f"{outcome.disturbed / 60:.1f}")
    table.add_row("rounds", str(outcome.rounds))
    table.add_row("restarts", str(outcome.restarts))
    codes = ", ".join(
        f"{code} ({count})" for code, count in sorted(outcome.codes.items())
    )
    table.add_row("exit codes of the sweep", codes)
    for note, count in outcome.notes.items():
        table.add_row(note, str(count))
    console.print(table)
    for complaint in outcome.complaints:
        console.print(complaint, style="red", soft_wrap=True)
    console.print(
        "FAILED"
        if outcome.complaints
        else "PASSED: every cell ended as undisturbed, bit for bit, and nothing is left"
    )
