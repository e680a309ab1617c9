"""Lines of cells that run side by side are complete and have the cell's prefix."""

import io

from rich.console import Console
from rich.table import Table

from unmask.distributed.line_prefix import PrefixedStream


def test_every_line_gets_the_prefix_and_none_is_written_in_parts() -> None:
    output = io.StringIO()
    stream = PrefixedStream(output, "[1/2] ")
    print("a", 1, end="", file=stream)
    assert not output.getvalue(), "a line must not be written before its end"
    print("b\n\nc", file=stream)
    assert output.getvalue() == "[1/2] a 1b\n[1/2] \n[1/2] c\n"
    stream.write("last words")
    stream.close_line()
    stream.close_line()
    assert output.getvalue().endswith("c\n[1/2] last words\n")


def test_a_table_keeps_its_shape_behind_the_prefix() -> None:
    output = io.StringIO()
    table = Table("stage", "result")
    table.add_row("pretrain", "0.5")
    Console(file=PrefixedStream(output, "[1/2] "), width=40).print(table)
    lines = output.getvalue().splitlines()
    assert all(line.startswith("[1/2] ") for line in lines)
    assert len({len(line) for line in lines}) == 1
