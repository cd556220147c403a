"""Divide a set of images in two, with the same share of each class in both."""

import numpy as np

#: Which images are kept and held out depends on the data alone, not on a run's seed: runs stay comparable.
_SEED = 0


def split(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `count` of N images, stratified if that can be; the same ones every time.

    Args:
        labels: (N,) integers.
        count: How many to choose, 0 < count < N.

    Returns:
        Positions of the chosen images and of the others, each ascending.
    """
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(labels))
    try:
        chosen, others = train_test_split(positions, train_size=count, random_state=_SEED, stratify=labels)
    except ValueError:  # a class with a single image, or fewer images than classes on one of the two sides
        chosen, others = train_test_split(positions, train_size=count, random_state=_SEED)
    return np.sort(chosen), np.sort(others)
