"""A renter's own tools in a running order: SSH, ports, commands."""
