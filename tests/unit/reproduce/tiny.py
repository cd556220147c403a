#: A network and a budget so small that a training takes a second.
SMALL = {
    "data.limit": 60,
    "data.workers": 0,
    "model.depths": [1, 1],
    "model.channels": [4, 6],
    "train.epochs": 1,
    "train.batch_size": 16,
    "train.lr": 0.2,
}
