"""Numeric operations that maps are built from: a reference in plain torch each."""
