"""python -m pgjax."""

from pgjax.cli import main

if __name__ == "__main__":
    main()
