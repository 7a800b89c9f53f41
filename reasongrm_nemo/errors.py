# SPDX-License-Identifier: Apache-2.0
"""Errors that reach the user as one sentence."""


class UserError(Exception):
    """Something the user can put right; the message says what, where and what to do.

    The command line prints the message alone and exits with status 2.
    """


class StageFailed(UserError):
    """A stage ended before its artefact was whole; what it computed so far is kept."""
