"""The one exception that user input can cause."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what, why and what to do."""
