# SPDX-License-Identifier: Apache-2.0
"""Tables and pages for the user."""
