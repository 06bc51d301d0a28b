"""pytest-benchmark files for the parts of a layer: `nox -s micro -- [pytest options]`.

They show where the time of a layer goes while one works on it. Arms in a table are timed one after another, not in turn, so
the drift of the machine is in their ratios; results to cite come from `nox -s bench`.
"""
