"""A provider's commands: a machine that joins, serves, is looked after and leaves."""
