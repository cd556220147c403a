"""Looking at a trained network: how good it is, and what it makes of one image."""
