"""What one worker process does: build a workload, check it, measure it."""
