"""Engines: libraries that compute a network. All engines give the same probabilities, to 1e-4."""
