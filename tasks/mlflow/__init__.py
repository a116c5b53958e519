"""The only code of tasks that talks to MLflow."""
