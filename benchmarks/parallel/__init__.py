"""A plan on several machines: `run --parallel FILE` hands its parts to SLURM or Dask and merges what they measured.

`options` reads the file, `node` is what a job runs, `dispatch` hands out, waits and merges; `slurm` and `dask` are the queues.
"""
