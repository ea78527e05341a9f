"""Helpers for notebooks. Only notebooks, recordings and tests import this."""
