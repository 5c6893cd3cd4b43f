"""`python -m hatdet`."""

from hatdet.cli.app import main

if __name__ == "__main__":
    main()
