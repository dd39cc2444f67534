"""``python -m tqvec`` is the command ``tqvec``."""

from tqvec.cli.app import main

if __name__ == "__main__":
    main()
