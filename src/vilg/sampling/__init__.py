"""Drawing tokens from a trained generator."""
