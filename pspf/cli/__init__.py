"""The command line: fast dispatch, generated option tables, output. The commands stand in ``cmds/``."""
