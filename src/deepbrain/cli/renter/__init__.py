"""A renter's commands: what is offered, an order from its place to its results."""
