"""Readers of the formats in which pairs are kept; `data/sources.py` lists them."""
