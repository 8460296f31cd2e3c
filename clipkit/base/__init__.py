"""Files, messages, errors, names and tables: what every other package uses."""
