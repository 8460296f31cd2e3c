"""The entry point of `clipkit` and of `python -m clipkit`."""

from __future__ import annotations

import gc
import signal


def main() -> None:
    """Run clipkit; an interrupt while it is still being loaded ends it without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Loading torch and transformers makes many objects and no garbage: this saves half a second.
    gc.set_threshold(50_000)
    from clipkit import cli

    cli.main()


if __name__ == "__main__":
    main()
