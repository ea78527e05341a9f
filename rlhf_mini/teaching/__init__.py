"""What the notebooks use and the package itself does not: only notebooks, recordings and tests import this."""
