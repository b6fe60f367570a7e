"""The gate in MLflow's own server: no alias, stage or version means a model that the policies do not let it mean.

`gate` decides and knows nothing of MLflow; `app` is what `mlflow server --app-name genealog` starts.
"""
