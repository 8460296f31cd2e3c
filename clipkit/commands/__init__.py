"""One module per command, named like the command: options, one library call, one report."""
