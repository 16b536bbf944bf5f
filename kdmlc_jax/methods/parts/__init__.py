"""Formulas that several methods share, one idea a file; no method imports another for them."""
