"""`python -m ismn_cli`, and `torchrun -m ismn_cli train ...`: the command line."""

from ismn_cli.cli.app import main

if __name__ == "__main__":
    main()
