"""The exception for user input that cannot be used."""


class InputError(ValueError):
    """Some input cannot be used; the message says in one line what it is, why, and what to do."""
