"""Recipes: settings of training as TOML files. The shipped recipes are in this folder."""
