"""The interactive page: one file that loads nothing, with the points that it draws embedded once."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from markdown_it import MarkdownIt

from benchmarks.analysis.data import Data, machines
from benchmarks.report.headlines import Headline
from benchmarks.report.ids import table_id
from benchmarks.report.provenance import Source
from benchmarks.report.sparsity import Study
from benchmarks.report.strip import picture
from benchmarks.report.style import looks
from benchmarks.report.views import View, views

_WEB = Path(__file__).parent / "web"
_KEPT = ("status", "reason", "pairs", "processes", "case_key", "run_id", "env_id")
_DIGITS = 6
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
# Colours that vanish on a dark page, and what stands for them there.
_ON_DARK = {
    "#000000": "#f2f2f2",
    "#737373": "#a6a6a6",
    "#0072b2": "#3b9ddd",
    "#882255": "#dd6fa5",
    "#332288": "#9a90f0",
    "#9c00fc": "#c45cff",
    "#543c00": "#e8cf9a",
    "#117733": "#7fdc7f",
}


@dataclass(frozen=True)
class Part:
    """One report on the page: its folder relative to the page ('' for the page's own), rows, studies, results and sources.

    `findings` are in Markdown, by what they are about.
    """

    folder: str
    data: Data
    studies: Sequence[Study]
    headlines: Sequence[Headline]
    findings: Mapping[str, str]
    sources: Sequence[Source]


def index(parts: Sequence[Part], title: str) -> str:
    """Return the page over `parts`; equal rows give an equal page."""
    texts = {
        "title": html.escape(title),
        "first": "\n".join(map(_first, parts)),
        "findings": "\n".join(map(_findings, parts)),
        "citations": "\n".join(map(_citations, parts)),
        "style": (_WEB / "style.css").read_text(encoding="utf-8"),
        "script": (_WEB / "app.js").read_text(encoding="utf-8"),
        "data": _embedded(_content(parts)),
    }
    page = (_WEB / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match.group(1)], page)


def _embedded(content: object) -> str:
    """Compact JSON that cannot end the element that holds it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _content(parts: Sequence[Part]) -> dict[str, Any]:
    found: dict[str, list[tuple[str, View]]] = {}
    for part in parts:
        for view in views(part.data, part.studies):
            found.setdefault(view.key, []).append((part.folder, view))
    series = {str(name) for same in found.values() for _, view in same for name in view.frame[view.series].unique()}
    runs = {run_id: environment for part in parts for run_id, environment in part.data.environments.items()}
    return {
        "views": [_view(same, several=len(parts) > 1) for same in found.values()],
        "looks": {name: _look(look) for name, look in looks(sorted(series)).items()},
        "runs": {
            run_id: {"commit": runs[run_id].commit, "machine": runs[run_id].machine, "started": runs[run_id].started_at}
            for run_id in sorted(runs)
        },
    }


def _look(look: Any) -> dict[str, str]:
    colour = mpl.colors.to_hex(look.colour)
    return {"colour": colour, "dark": _ON_DARK.get(colour, colour), "marker": look.marker, "line": look.line}


def _view(same: Sequence[tuple[str, View]], *, several: bool) -> dict[str, Any]:
    view = same[0][1]
    frame = pd.concat([one.frame.assign(report=folder) for folder, one in same], ignore_index=True)
    filters = ({"report": "Machine"} if several else {}) | dict(view.filters)
    values = [name for shown in view.quantities for name in (shown.column, *(shown.ends or ()))]
    wanted = [*filters, view.series, view.x, *values, "floor", *_KEPT]
    return {
        "key": view.key,
        "title": view.title,
        "x": view.x,
        "xLabels": dict(view.x_labels),
        "names": view.names,
        "joined": view.joined,
        "series": view.series,
        "filters": [{"column": column, "label": label} for column, label in filters.items()],
        "preferred": dict(view.preferred),
        "quantities": [
            {
                "column": shown.column,
                "label": shown.label,
                "ends": list(shown.ends or ()),
                "interval": shown.interval,
                "ratio": shown.ratio,
            }
            for shown in view.quantities
        ],
        "rows": len(frame),
        "columns": {name: _column(frame[name]) for name in dict.fromkeys(wanted) if name in frame.columns},
    }


def _column(values: pd.Series[Any]) -> dict[str, Any] | list[Any]:
    """Numbers as a list, rounded to what a screen can show; texts as a list of the different ones and places in it."""
    if pd.api.types.is_numeric_dtype(values):
        return [_rounded(float(value)) for value in values]
    texts = ["" if pd.isna(value) else str(value) for value in values]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return {"texts": list(places), "places": [places[text] for text in texts]}


def _rounded(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    if value == int(value):
        return int(value)  # a count: every digit of it is in the tables and sentences too
    rounded = float(f"{value:.{_DIGITS - 1}e}")
    return int(rounded) if rounded == int(rounded) else rounded


def _first(part: Part) -> str:
    counts = part.data.cases["status"].value_counts()
    where = "; ".join(machines(part.data))
    only = " <strong>CPU only: no GPU was measured.</strong>" if set(part.data.cases["device"]) == {"cpu"} else ""
    heading = f"<h2>{html.escape(part.folder)}</h2>\n" if part.folder else ""
    cards = "\n".join(_card(headline, _prefix(part)) for headline in part.headlines)
    cases = f"{len(part.data.cases):,} cases, {counts.get('ok', 0):,} of them ok."
    return f'{heading}<div class="strip">\n{cards}\n</div>\n<p>{html.escape(where)}. {cases}{only}</p>'


def _card(headline: Headline, prefix: str) -> str:
    source = f"[{table_id(headline.table)}](tables/{headline.table}.md)"
    sentence = _html(f"{headline.sentence} {source}", prefix, inline=True)
    return (
        f'<figure class="card"><h3>{html.escape(headline.heading)}</h3>{picture(headline)}'
        f"<figcaption>{sentence}</figcaption></figure>"
    )


def _findings(part: Part) -> str:
    of = f" on {html.escape(part.folder)}" if part.folder else ""
    return "\n".join(
        f"<details><summary>{html.escape(about)}{of}</summary>\n{_html(text, _prefix(part))}</details>"
        for about, text in part.findings.items()
    )


def _prefix(part: Part) -> str:
    return f"{part.folder}/" if part.folder else ""


def _html(markdown: str, prefix: str, *, inline: bool = False) -> str:
    """HTML of Markdown, in which `prefix` goes before relative links; raw HTML is shown as text."""
    tokens = _MARKDOWN.parseInline(markdown) if inline else _MARKDOWN.parse(markdown)
    for token in (child for one in tokens for child in one.children or ()):
        if token.type == "link_open" and "://" not in (address := str(token.attrs["href"])):
            token.attrs["href"] = prefix + address
    return str(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


def _citations(part: Part) -> str:
    rows = "\n".join(_citation(source, _prefix(part)) for source in part.sources)
    name = f"Figures and tables of {html.escape(part.folder)}" if part.folder else "Figures and tables"
    return (
        f"<details><summary>{name}</summary>\n"
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table><caption>{name}</caption><thead><tr>'
        '<th scope="col">id</th><th scope="col">what it shows</th><th scope="col">files</th><th scope="col">rows</th>'
        '<th scope="col">SHA-256 of the rows</th><th scope="col">commit</th><th scope="col">environment</th></tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div></details>"
    )


def _citation(source: Source, prefix: str) -> str:
    links: Iterable[str] = (
        f'<a href="{prefix}{source.folder}/{html.escape(name)}">{name.rpartition(".")[2].upper()}</a>' for name in source.files
    )
    hashes: Mapping[str, str] = {commit: commit[:12] for commit in source.commits}
    return (
        f'<tr><th scope="row">{html.escape(source.id)}</th><td>{_html(source.caption, prefix, inline=True)}</td>'
        f"<td>{' '.join(links)}</td><td>{source.rows:,}</td><td><code>{source.rows_sha256[:16]}</code></td>"
        f"<td><code>{'<br>'.join(map(html.escape, hashes.values()))}</code></td>"
        f"<td><code>{'<br>'.join(map(html.escape, source.environments))}</code></td></tr>"
    )
