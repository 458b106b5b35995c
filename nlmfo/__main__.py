# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m nlmfo``, and the console script."""

import gc
import sys


def entry() -> None:
    """Load the command line, without looking for garbage in what stays to the end: that is a tenth of a start."""
    gc.disable()
    from nlmfo.cli.main import main  # noqa: PLC0415 - see above

    gc.freeze()
    gc.enable()
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
