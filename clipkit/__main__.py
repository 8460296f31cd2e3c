"""`python -m clipkit`, and the entry point."""

from __future__ import annotations

import gc
import signal


def main() -> None:
    """Run clipkit; an interrupt while it is still being loaded ends it without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(
        50_000
    )  # loading torch and transformers makes many objects and no garbage: half a second
    from clipkit.cli import main as enter

    enter()


if __name__ == "__main__":
    main()
