"""Published networks of others, as bundles."""
