"""How a command fails: a sentence for the person, an exit code for the script."""

from __future__ import annotations

import click


class Refused(click.ClickException):
    """Refused, or the job did not complete."""

    exit_code = 1


class NoAnswer(Refused):
    """The gateway, or Redis, is away or busy: try again later."""

    exit_code = 3


class Interrupted(Refused):
    """Ctrl-C, as shells count it."""

    exit_code = 130
