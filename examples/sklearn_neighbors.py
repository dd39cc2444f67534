"""Classify handwritten digits, and cluster definitions of WordNet, on neighbors graphs from compressed vectors."""

from tempfile import TemporaryDirectory

import numpy as np
from sklearn.cluster import DBSCAN
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from tqvec.eval.sample import load_sample
from tqvec.integrations.sklearn import TqvecNeighbors

x, y = load_digits(return_X_y=True)
steps = [("graph", TqvecNeighbors(n_neighbors=10)), ("classify", KNeighborsClassifier(metric="precomputed"))]
with TemporaryDirectory() as folder:  # a graph is computed once for all settings of the classifier
    search = GridSearchCV(Pipeline(steps, memory=folder), {"classify__n_neighbors": [1, 3, 10]}, cv=3).fit(x, y)
print(f"digits: accuracy {search.best_score_:.3f} with {search.best_params_['classify__n_neighbors']} neighbors")

sample = load_sample()
neighbors = TqvecNeighbors(n_neighbors=10, metric="cosine", n_jobs=-1).fit_transform(sample.base)
labels = DBSCAN(eps=0.2, min_samples=4, metric="precomputed").fit_predict(neighbors)
sizes = np.bincount(labels[labels >= 0])
print(f"definitions: {sizes.size} clusters; one of them:")
for row in np.flatnonzero(labels == np.argmin(sizes)):
    print(f"  {sample.base_texts[row]}")
