"""Curation of fields before training: duplicates, leaks, label audits and folds."""
