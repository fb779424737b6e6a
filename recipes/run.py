"""python recipes/run.py recipes/<study>.yaml [--profile paper]: runs a study to its report."""

import sys

if __name__ == "__main__":  # worker processes import this file
    try:
        from sj_cka.cli import main
    except KeyboardInterrupt:  # torch takes seconds to import
        sys.exit(130)
    sys.argv.insert(1, "run")
    main()
