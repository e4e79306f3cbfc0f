"""Tests: unit, pipeline (with real processes), cluster, browser; `tests.soak` kills and resumes."""
