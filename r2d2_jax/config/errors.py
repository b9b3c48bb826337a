"""Errors that are the user's to mend; every other one keeps its traceback."""


class UserError(Exception):
  """What the user gave, or has installed, does not do: says so in plain words.

  Commands tell it in one message. Every other error is a fault of the program,
  or of what a researcher put into it, and keeps its traceback.
  """


class ConfigError(UserError, ValueError):
  """A setting cannot work: says what was expected, what came, what to do."""


class FileError(UserError, ValueError):
  """A file does not hold, or cannot take, what it should: says which, why."""


class MissingPackageError(UserError, ImportError):
  """What was asked for needs an optional package: says which, how to get it."""


def first_line(error: BaseException) -> str:
  """An error in one line of a readable length: its beginning and its end."""
  line = (str(error).splitlines() or [type(error).__name__])[0]
  return line if len(line) <= 240 else f"{line[:120]} ... {line[-115:]}"
