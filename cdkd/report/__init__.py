"""Records to statistics, tables and figures."""
