"""The unified transformer over text and image tokens."""
