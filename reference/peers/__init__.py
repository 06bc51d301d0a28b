"""KANs of other packages, one module each, called like the package; all of them are optional."""
