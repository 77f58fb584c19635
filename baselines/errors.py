"""The one class of errors that users can mend; everything else is a bug of ours."""

from __future__ import annotations


class UserError(ValueError):
    """Something in the user's input or surroundings does not fit.

    The message is one line where it can be and names the thing, the value and the remedy. Commands
    print it and exit with status 2; any other exception keeps its traceback, because it is a bug.
    """
