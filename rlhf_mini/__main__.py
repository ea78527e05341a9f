"""`python -m rlhf_mini`."""

import sys

from rlhf_mini.cli import main

if __name__ == "__main__":
    sys.exit(main())
