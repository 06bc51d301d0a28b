"""Tables for papers: LaTeX with booktabs rules, numbers aligned and set by siunitx.

A column of plain numbers is an `S` column of siunitx. In any other cell '2.21 (2.12 to 2.31)' becomes a number with a range,
`code` becomes typewriter text, and everything that LaTeX would read as a command is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.report.cells import View

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "–": "--", "—": "---", "·": r"\textperiodcentered{}", "×": r"\texttimes{}", "…": r"\dots{}",
    "±": r"\textpm{}", "∞": r"\ensuremath{\infty}", "φ": r"\ensuremath{\varphi}", "Φ": r"\ensuremath{\Phi}",
}  # fmt: skip
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_PLAIN = re.compile(rf"{_NUMBER}\Z")
_INTERVAL = re.compile(rf"({_NUMBER}) \(({_NUMBER}) to ({_NUMBER})\)\Z")
_RANGE = re.compile(rf"({_NUMBER}) to ({_NUMBER})\Z")
_SHARE = re.compile(rf"({_NUMBER}) of ({_NUMBER})\Z")
_MISSING = ("–", "")
_WIDE = 7  # columns from which the type gets smaller
_LONG = 45  # lines above which the table breaks over pages


def latex(view: View, caption: str, label: str) -> str:
    """Return a table with the headings and texts of `view`; the first line names the packages that it needs."""
    columns = [_column(texts) for texts in view.values()]
    head = " & ".join(f"{{{_text(heading)}}}" for heading in view)
    rows = [" & ".join(cells) for cells in zip(*(cells for _, cells in columns), strict=True)]
    spec = "".join(spec for spec, _ in columns)
    captioned = f"\\caption{{{_text(caption)}}}\\label{{{label}}}"
    size = r"\scriptsize" if len(view) >= _WIDE else r"\small"
    body = [f"{row} \\\\" for row in rows]
    if len(rows) > _LONG:
        lines = [
            f"\\begingroup{size}\\setlength{{\\tabcolsep}}{{3pt}}",
            f"\\begin{{longtable}}{{{spec}}}",
            f"{captioned} \\\\",
            *(r"\toprule", f"{head} \\\\", r"\midrule", r"\endfirsthead"),
            *(r"\toprule", f"{head} \\\\", r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"),
            *body,
            *(r"\end{longtable}", r"\endgroup"),
        ]
    else:
        lines = [
            *(r"\begin{table}", r"\centering", captioned, f"{size}\\setlength{{\\tabcolsep}}{{3pt}}"),
            f"\\begin{{tabular}}{{{spec}}}",
            *(r"\toprule", f"{head} \\\\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"),
        ]
    return "\n".join([r"% \usepackage[T1]{fontenc} \usepackage{booktabs,longtable,siunitx,textcomp}", *lines]) + "\n"


def _column(texts: Sequence[str]) -> tuple[str, list[str]]:
    """Return the column's type and its cells."""
    if any(map(_PLAIN.match, texts)) and all(_PLAIN.match(text) or text in _MISSING for text in texts):
        plain = [text.replace(",", "") for text in texts]
        return f"S[table-format={_format(plain)}]", [f"{{{_text(text)}}}" if text in _MISSING else text for text in plain]
    return "l", [_cell(text) for text in texts]


def _format(texts: Sequence[str]) -> str:
    """Return siunitx's table-format: the widest sign, integer part, fraction and exponent among the numbers."""
    found = [re.match(r"(-?)(\d+)(?:\.(\d+))?(?:e([+-]?)0*(\d+))?\Z", text) for text in texts]
    parts = [match.groups(default="") for match in found if match]
    sign = "-" if any(part[0] for part in parts) else ""
    whole, fraction, exponent = (max(len(part[index]) for part in parts) for index in (1, 2, 4))
    negative = "-" if any(part[3] == "-" for part in parts) else ""
    return f"{sign}{whole}" + (f".{fraction}" if fraction else "") + (f"e{negative}{exponent}" if exponent else "")


def _cell(text: str) -> str:
    if match := _INTERVAL.match(text):
        return "{} ({} to {})".format(*map(_number, match.groups()))
    if match := _RANGE.match(text):
        return "{} to {}".format(*map(_number, match.groups()))
    if match := _SHARE.match(text):
        return "{} of {}".format(*map(_number, match.groups()))
    return _number(text) if _PLAIN.match(text) else _text(text)


def _number(text: str) -> str:
    return f"\\num{{{text.replace(',', '')}}}"


def _text(text: str) -> str:
    """Return `text` for LaTeX: `code` as typewriter text, special characters escaped."""
    pieces = " ".join(text.split()).split("`")
    return "".join(f"\\texttt{{{_escaped(piece)}}}" if index % 2 else _escaped(piece) for index, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
