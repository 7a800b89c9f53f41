# SPDX-License-Identifier: Apache-2.0
"""`make soak`: many GRPO steps, a server killed again and again, and which figures grow."""
