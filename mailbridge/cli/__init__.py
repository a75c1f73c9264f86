"""The command line: one module for each group of commands, each imported when it is needed."""
