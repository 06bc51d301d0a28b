"""The benchmark suite: `python -m benchmarks run|plan|report|compare|export`.

`presets -> cases -> run (worker: gate -> measure) -> rows -> analysis -> report`. Only the worker and `dev` import torch.
README.md lists the rooms.
"""
