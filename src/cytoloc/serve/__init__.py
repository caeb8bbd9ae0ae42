"""A page and a REST service for predictions."""
