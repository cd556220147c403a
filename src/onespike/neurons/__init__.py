"""Neurons: what they are, and how any network's are watched."""
