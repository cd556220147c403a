"""Where images come from: one file a data set, all behind the protocol of `base.Source`, by name in `registry`."""
