"""Unit tests, pipeline tests with real processes, cluster and browser tests; `tests.soak` kills and resumes."""
