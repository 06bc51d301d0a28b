"""What `efficient_kan` is compared with: every implementation behind one face, see `reference.arm`."""
