"""python -m pgjax, and the pgjax command."""

import sys


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        from pgjax.cli import main as run
    except ModuleNotFoundError as e:
        print(f'pgjax: {e.name} is missing: pip install "pgjax[all]"', file=sys.stderr)
        raise SystemExit(2) from None
    run()


if __name__ == "__main__":
    main()
