"""`python -P -m autograder.cli`; without -P, Python takes modules from the current folder first."""

from . import main

if __name__ == "__main__":
    main()
