"""Tables as LaTeX: structure, escapes, and that a LaTeX compiles every one of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.report.latex import latex


def test_a_column_of_numbers_is_aligned_by_siunitx() -> None:
    text = latex(
        {"n": ["1,234", "–", "0.50"], "error": ["1.2e-07", "3.4e-12", "–"], "arm": ["a", "b", "c"]}, "Caption.", "tab:x"
    )
    assert r"\begin{tabular}{S[table-format=4.2]S[table-format=1.1e-2]l}" in text
    assert "1234 & 1.2e-07 & a \\\\\n{--} & 3.4e-12 & b \\\\\n0.50 & {--} & c \\\\\n" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\caption{Caption.}\label{tab:x}" in text


def test_intervals_ranges_and_shares_are_numbers_of_siunitx() -> None:
    text = latex({"a": ["2.21 (2.12 to 2.31)", "0.5 to 1,000", "3 of 24", "7 cases", "–"]}, "", "t")
    assert r"\num{2.21} (\num{2.12} to \num{2.31})" in text
    assert r"\num{0.5} to \num{1000}" in text
    assert r"\num{3} of \num{24}" in text
    assert "\n7 cases" in text


def test_names_of_arms_and_reasons_are_escaped() -> None:
    text = latex({"arm": ["`efficient_kan`"], "why": [r"50 % of {x}_1 & \y $2 #3 ~ ^ <tag> 4·B"]}, "`a_b`", "t")
    assert r"\texttt{efficient\_kan}" in text
    assert (
        r"50 \% of \{x\}\_1 \& \textbackslash{}y \$2 \#3 \textasciitilde{} \textasciicircum{} \textless{}tag\textgreater{}"
        in text
    )
    assert r"\caption{\texttt{a\_b}}" in text


def test_a_long_table_breaks_over_pages() -> None:
    text = latex({"a": [str(n) for n in range(99)]}, "c", "t")
    assert r"\begin{longtable}{S[table-format=2]}" in text
    assert text.count(r"\endhead") == text.count(r"\endfoot") == text.count(r"\endfirsthead") == 1


def test_every_table_of_a_report_has_as_many_cells_in_each_line(rendered: Path) -> None:
    files = sorted((rendered / "tables").glob("*.tex"))
    assert [path.stem for path in files] == sorted(path.stem for path in (rendered / "tables").glob("*.csv"))
    for path in files:
        text = path.read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.endswith(r" \\") and not line.startswith(r"\caption")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_a_latex_sets_every_table_of_a_report(rendered: Path, tmp_path: Path) -> None:
    files = sorted((rendered / "tables").glob("*.tex"))
    packages = r"\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{booktabs,longtable,siunitx,textcomp}"
    body = "\n".join(path.read_text(encoding="utf-8") for path in files)
    text = f"\\documentclass{{article}}{packages}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "all.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
