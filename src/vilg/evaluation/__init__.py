"""Measures that know no data set: the judge, and how alike pictures are."""
