"""Records to statistics, tables and figures. Importing this package imports none of its heavy friends."""
