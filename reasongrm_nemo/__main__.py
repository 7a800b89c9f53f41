# SPDX-License-Identifier: Apache-2.0
"""`python -m reasongrm_nemo` is the command `reasongrm`."""

from reasongrm_nemo.cli import main

if __name__ == "__main__":
    main()
