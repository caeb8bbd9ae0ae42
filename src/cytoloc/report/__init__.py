"""Reports of results: tables and figures."""
