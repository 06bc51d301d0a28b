"""How compiled code is made, cached and run."""
