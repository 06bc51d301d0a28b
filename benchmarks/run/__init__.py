"""Measuring a plan: the parent, its processes, the store of rows, and parts for several machines."""
