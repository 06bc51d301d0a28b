"""What stored rows say: medians, ratios, intervals, and how two folders differ."""
