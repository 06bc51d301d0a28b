"""Which tests run in one worker, where several share the work."""

from __future__ import annotations

import pytest

# Fixtures that take seconds and serve several tests, made once for a module or the session: in each worker that needs them.
SHARED = ("checkout", "plain_peak", "rendered", "rendered_machines", "results", "run", "smoke", "trained")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that share such a fixture to one worker (xdist's `--dist loadgroup`), so that it is made once."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
        for name in SHARED:
            if name in definitions and definitions[name][-1].scope in ("module", "session"):
                item.add_marker(pytest.mark.xdist_group(f"{name} {definitions[name][-1].baseid}"))
                break
