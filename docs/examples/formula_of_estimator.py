"""The formula of a fitted estimator, in the units of its data."""

import numpy as np
import sympy
import torch

from efficient_kan import KANRegressor

rng = np.random.default_rng(0)
X = rng.uniform((10.0, 0.0), (30.0, 5.0), (500, 2))
y = 3 * np.sin(X[:, 0] / 4) + X[:, 1] ** 2 + 100
model = KANRegressor((), optimizer="lbfgs", max_iter=30, random_state=0)
model.fit(X, y)

inputs, targets = model.input_scaling_, model.target_scaling_
scaled = torch.from_numpy(inputs.apply(X))
model.network_.plot(scaled, input_names=["t", "p"])
(formula,) = model.network_.symbolic(scaled).formula(["t", "p"])

# In the units of the data, for its inputs and its target.
for name, center, scale in zip("tp", *inputs, strict=True):
    symbol = sympy.Symbol(name)
    formula = formula.subs(symbol, (symbol - center) / scale)
formula = sympy.expand(targets.scale[0] * formula + targets.center[0])
print(formula.evalf(4))
found = sympy.lambdify(["t", "p"], formula)(*X.T)
assert np.abs(found - y).max() < 0.02 * y.std()
