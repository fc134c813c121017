"""Pictures to discrete tokens and back."""
