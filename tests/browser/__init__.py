"""The report and the MLflow page in a headless browser."""
