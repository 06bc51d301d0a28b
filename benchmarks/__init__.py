"""The benchmark suite: `python -m benchmarks run|plan|report|compare|export`.

`presets -> cases -> runner -> worker (gate -> measure) -> rows -> results -> stats -> report`. Only the worker imports torch.
"""
