"""Compares methods honestly: methods × networks × seeds × configs, one folder a cell, one table."""
