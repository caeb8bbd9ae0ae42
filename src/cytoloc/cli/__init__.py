"""The commands: one file per group, each thin."""
