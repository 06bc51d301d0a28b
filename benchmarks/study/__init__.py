"""The sparsity study: does L1 on the weights do the job? See RULE.md.

`penalties`, `rule`, `statistics` and `verdict` need no torch; `stacked`, `training`, `sweep` and `original` train networks.
"""
