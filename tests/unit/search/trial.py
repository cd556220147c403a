"""A training so small that a trial takes a second."""

TINY = {
    "data.limit": 60,
    "data.holdout": 0.3,
    "model.depths": "[1,1]",
    "model.channels": "[4,8]",
    "train.epochs": 1,
    "train.batch_size": 10,
    "train.warmup_epochs": 0,
    "train.track": "[]",
    "train.device": "cpu",
}
