"""Captioned pictures: shards, order, token store."""
