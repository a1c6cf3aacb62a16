"""The base of all errors that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """An error whose message is one line for the user: what is wrong, and what to do. Others keep their traceback."""

    exit_code = 1
