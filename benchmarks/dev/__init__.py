"""Commands for who changes a kernel or the suite itself: bars, micro-benchmarks and new keys for stored rows."""
