"""`python -m benchmarks gpu-run OUT`: everything that a borrowed GPU has to answer, in stages, in less than eight minutes.

The parent (`command`, `stages`) imports no torch. Every stage is a function of a `stages.Job` in a process of its own, which is
killed when its time is over; what it has written until then stays. A dry run goes the same way on a CPU.
"""
