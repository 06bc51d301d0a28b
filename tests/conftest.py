"""Which tests run in one worker, where several share the work, and which are left to another session for that."""

from __future__ import annotations

import pytest

# Fixtures that take seconds and serve several tests, made once for a module or the session: in each worker that needs them.
SHARED = ("checkout", "plain_peak", "read_once", "rendered", "rendered_machines", "results", "run", "smoke", "trained")
WHOLE = ("rendered", "rendered_machines", "results")  # reports drawn from end to end, ranks in processes of their own


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that share such a fixture to one worker (xdist's `--dist loadgroup`), so that it is made once."""
    spread = config.pluginmanager.hasplugin("xdist")
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
        shared = [name for name in SHARED if name in definitions and definitions[name][-1].scope in ("module", "session")]
        if shared and spread:
            item.add_marker(pytest.mark.xdist_group(f"{shared[0]} {definitions[shared[0]][-1].baseid}"))
        if any(name in WHOLE for name in shared):
            item.add_marker(pytest.mark.end_to_end)
