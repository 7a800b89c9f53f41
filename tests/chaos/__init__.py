# SPDX-License-Identifier: Apache-2.0
"""`make chaos`: kills, faults and hostile files against the whole package, and what survived them."""
