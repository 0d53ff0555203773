"""DataModules, one per kind of data; imported by their full names, so that reading a table needs no Lightning."""
