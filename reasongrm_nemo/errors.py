# SPDX-License-Identifier: Apache-2.0
"""Errors that reach the user as one sentence."""


class UserError(Exception):
    """A problem the user can fix; the message says what is wrong, where, and what to do.

    The command line prints only the message and exits with status 2.
    """


class StageFailed(UserError):
    """A stage ended before its artefact was complete; its results so far are kept."""
