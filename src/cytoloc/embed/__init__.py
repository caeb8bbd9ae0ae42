"""Features of fields: files of them, the nearest labeled fields, and maps."""
