"""Errors of the user's input, as opposed to bugs.

A program prints one of these in one line and ends with exit status 2; any other exception is a bug
and keeps its traceback. They are raised where the wrong thing is known, also around calls of
libraries, and say what was wrong, in which file or field, what was expected and what to do.
"""


class UserError(ValueError):
  """A field of a config, an option, a file or a work directory that cannot be used."""


class NotFoundError(UserError, FileNotFoundError):
  """A file, folder or part of a data set is missing."""
