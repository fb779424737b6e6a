"""`python -m sj_cka`: the command line."""

from sj_cka.cli import main

if __name__ == "__main__":  # worker processes import this file
    main()
