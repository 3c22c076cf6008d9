"""A validator: set up, joined, watched, withdrawn."""
