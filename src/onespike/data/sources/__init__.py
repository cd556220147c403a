"""Where images come from: a function a data set, each of which opens a `base.Source`, by name in `registry`."""
