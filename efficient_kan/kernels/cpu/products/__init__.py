"""Products of features and weights, an algorithm a file."""
