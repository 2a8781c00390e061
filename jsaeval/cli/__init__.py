"""The command line; see `jsaeval.cli.main`."""

from jsaeval.cli.main import entry, main, parse


__all__ = ["entry", "main", "parse"]
