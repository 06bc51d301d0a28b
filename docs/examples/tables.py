"""Estimators that follow scikit-learn."""

from sklearn.datasets import load_diabetes
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, train_test_split

from efficient_kan import KANRegressor

data = load_diabetes()
x, x_test, y, y_test = train_test_split(data.data, data.target, random_state=0)

search = GridSearchCV(
    KANRegressor(
        hidden_layer_sizes=(4,),
        grid_size=3,
        max_iter=60,
        penalty="sample_l1",
        random_state=0,
    ),
    {"penalty_weight": [1e-3, 1e-2]},
    cv=3,
)
search.fit(x, y)
print(f"{search.best_params_}, R2 {search.score(x_test, y_test):.2f}")

importance = permutation_importance(
    search.best_estimator_, x_test, y_test, n_repeats=5, random_state=0
)
print(
    "most important:", data.feature_names[importance.importances_mean.argmax()]
)
assert search.score(x_test, y_test) > 0.2
