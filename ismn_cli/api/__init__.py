"""The same words as on the command line, for a program or a notebook; see `ismn_cli.api.evaluate.evaluate`."""
