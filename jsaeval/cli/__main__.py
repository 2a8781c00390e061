from jsaeval.cli import entry


entry()
