"""Linear probes of frozen encoders."""

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PENALTIES = np.logspace(-6, 5, 23)  # ridge penalties, chosen on the training rows by leave-one-out


def ridge():
    """Ridge regression on standardised features; one singular value decomposition serves all penalties."""
    return make_pipeline(StandardScaler(), RidgeCV(PENALTIES, gcv_mode="svd"))
