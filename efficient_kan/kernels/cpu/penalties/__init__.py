"""Norms of edges over samples, an algorithm a file."""
