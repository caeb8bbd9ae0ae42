"""Sources of fields for imports: image files of different layouts."""
