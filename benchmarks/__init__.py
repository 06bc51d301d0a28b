"""The benchmark suite: `python -m benchmarks run|plan|report`.

`presets -> cases -> runner -> worker (gate -> measure) -> rows -> results -> stats -> report`. Only the worker imports torch.
"""
