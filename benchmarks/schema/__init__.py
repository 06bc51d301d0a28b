"""What a case, a row and an environment are, and keys by meaning; the JSON schemas of rows and environments lie here too."""
