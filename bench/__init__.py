"""Every published figure is made by a command here: `make bench`."""
