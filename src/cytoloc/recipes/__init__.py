"""Recipes: how a network is trained, as TOML; the shipped ones lie beside this file."""
