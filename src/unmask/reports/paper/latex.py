r"""A comparison as a LaTeX table, ready for \input in a paper.

It needs the package booktabs.
"""

import re

from unmask.reports.paper.comparison import Comparison
from unmask.reports.paper.tables import NO_VALUE, heads, row_texts

# each character is replaced once, in one pass
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "→": r"$\rightarrow$",
}
SPECIAL_CHARACTER = re.compile("|".join(map(re.escape, SPECIAL)))
# a minus before a number, not a hyphen
MINUS = re.compile(r"(?<![\w)])-(?=\d)")


def escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    plain = SPECIAL_CHARACTER.sub(lambda found: SPECIAL[found[0]], text)
    return MINUS.sub("$-$", plain)


def latex_table(comparison: Comparison) -> str:
    """Return the table, the default row in bold, with a caption and a label."""
    paper = comparison.paper
    groups = {name: heads(comparison, name) for name in paper.columns}
    spans, rules, names = [], [], [escape(paper.axis)]
    first = 2
    for name, titles in groups.items():
        column = paper.columns[name]
        last = first + len(titles) - 1
        title = escape(f"{column.title}, {column.unit}")
        spans.append(rf"\multicolumn{{{len(titles)}}}{{c}}{{{title}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{last}}}")
        names += map(escape, titles)
        first = last + 1
    lines = [
        f"% {comparison.paper.paper}, scale {comparison.scale}; needs booktabs",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (first - 2)}}}",
        r"\toprule",
        rf" & {' & '.join(spans)} \\",
        " ".join(rules),
        rf"{' & '.join(names)} \\",
        r"\midrule",
        *[_line(comparison, row.row) for row in paper.rows],
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_caption(comparison)}}}",
        rf"\label{{tab:{comparison.slug}-{comparison.scale}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(comparison: Comparison, row: str) -> str:
    texts = [row]
    for name in comparison.paper.columns:
        texts += row_texts(comparison, name, row)
    cells = [escape(text) if text != NO_VALUE else "--" for text in texts]
    # after the end of a line LaTeX takes them for an argument
    if cells[0].startswith(("[", "*")):
        cells[0] = "{}" + cells[0]
    if row == comparison.paper.default:
        cells = [rf"\textbf{{{cell}}}" for cell in cells]
    return rf"{' & '.join(cells)} \\"


def _caption(comparison: Comparison) -> str:
    paper = comparison.paper
    beside = f"{paper.paper} of He et al. (2022) beside our" * (not paper.is_own)
    text = (
        f"{paper.title}: {beside or 'our'} results at the {comparison.scale} scale, as"
        " mean ± standard deviation over n seeds."
    )
    if paper.default is not None:
        text += " In square brackets: the difference to the default row (bold)."
    return escape(text)
