"""The site's API page: docstrings in reStructuredText become Markdown that says the same."""

from __future__ import annotations

import runpy
from types import SimpleNamespace
from typing import Any

import pytest

from efficient_kan import kernels
from efficient_kan.linear import KANLinear
from tests.readme_lines import ROOT

_MODULE = runpy.run_path(str(ROOT / "docs" / "docstrings.py"))
markdown = _MODULE["markdown"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a :class:`KAN`, :meth:`~efficient_kan.KAN.prune`", "a `KAN`, `KAN.prune`"),
        (":math:`\\phi_{oi}` of :mod:`efficient_kan.fit`", "`\\phi_{oi}` of `fit`"),
        ("Do this::\n\n    x = 1\n", "Do this:\n\n    x = 1\n"),
        ("It is done. ::\n\n    x = 1\n", "It is done.\n\n    x = 1\n"),
        ("Formula\n\n.. math::\n    y_o = \\sum_i x_i\n\nends", "Formula\n\n    y_o = \\sum_i x_i\n\nends"),
        (
            "=== ===\na   b\n=== ===\nx   :func:`f`\n    on\ny   a|b\n=== ===\n",
            "| a | b |\n| --- | --- |\n| x | `f` on |\n| y | a\\|b |\n",
        ),
    ],
    ids=["roles", "inline formula", "literal block", "literal block alone", "formula", "table"],
)
def test_markup_becomes_markdown(text: str, expected: str) -> None:
    assert markdown(text) == expected


def test_formulas_and_tables_of_the_package_are_found() -> None:
    shown = markdown(KANLinear.__doc__)
    assert "math::" not in shown
    assert r"\phi_{oi}(x) = m_{oi} \Big( b_{oi}\, a(x) + s_{oi} \sum_g c_{oig} B_g(x) \Big)" in shown
    assert "| `cpu` | numba" in markdown(kernels.__doc__).replace("``", "`")


def test_attributes_have_their_own_types_and_all_their_names() -> None:
    read = [("history_", "list"), ("n_iter_", "list"), ("n_features_in_,", "feature_names_in_")]  # as griffe has it
    attributes = [SimpleNamespace(name=name, annotation=annotation) for name, annotation in read]
    sections = [
        SimpleNamespace(kind=SimpleNamespace(value="text"), value="no attributes"),
        SimpleNamespace(kind=SimpleNamespace(value="attributes"), value=attributes),
    ]
    text = "history_: a :class:`list`.\nn_iter_: a number.\nn_features_in_, feature_names_in_: of the fit."
    docstring = SimpleNamespace(value=text, parsed=sections)
    members: dict[str, Any] = {"history_": SimpleNamespace(annotation="list"), "n_iter_": SimpleNamespace()}
    extension = _MODULE["Docstrings"]()
    extension.on_object(obj=SimpleNamespace(docstring=docstring, all_members=members))
    extension.on_object(obj=SimpleNamespace(docstring=None))
    assert docstring.value.startswith("history_: a `list`.")
    assert [(one.name, one.annotation) for one in attributes] == [
        ("history_", "list"),
        ("n_iter_", None),
        ("n_features_in_, feature_names_in_", None),
    ]
