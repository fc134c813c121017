"""The one error family that users see: a sentence that says what is wrong and what to do."""


class VilgError(ValueError):
    """Bad input or a bad setting; the command line prints it as one line and exits with 2."""
