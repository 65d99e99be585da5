"""Entry point of the pgjax command and of python -m pgjax."""

import signal
import sys

from pgjax.requirements import check


def main() -> None:
    """Run the command line, or say which package is missing and how to install it."""
    # During imports there is nothing to save: let Ctrl-C end the process without a traceback.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        check()
        from pgjax.cli import main as run
    except ModuleNotFoundError as e:
        print(f'pgjax: {e.name} is missing: pip install "pgjax[all]"', file=sys.stderr)
        raise SystemExit(2) from None
    except ImportError as e:
        print("pgjax:", " ".join(str(e).split()), file=sys.stderr)
        raise SystemExit(2) from None
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
